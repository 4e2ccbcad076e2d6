"""Who made a record: one rule for all that is counted or compared by person."""


def trimmed(column: str) -> str:
    """Give the SQL of a text column of data_records (named `record`) without white space around it."""
    return f"""nullif(btrim(record."{column}", E' \\t\\n\\r\\f\\v'), '')"""


# A person is the e-mail address in lower case, else the id; a record with neither is nobody's.
PERSON = f"coalesce(lower({trimmed('createdByEmail')}), {trimmed('createdById')})"
