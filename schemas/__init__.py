"""What data looks like: enums, tables, bodies and migrations. Nothing here imports anything else of ours."""
