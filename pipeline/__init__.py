"""What happens to data: settings, ledger, storage and the stages. No Celery and no Flask in here."""
