"""What makes a record the same record: its project, type and identity, digested."""

import hashlib

from schemas.enums import RecordType

DIGEST_BYTES = 16


def digest_identity(project_id: str, kind: RecordType, identity: str) -> bytes:
    """Digest an identity to `DIGEST_BYTES` bytes.

    The database's function `opspipe_identity` digests the records of other clients in the same way.

    Args:
        project_id: the project's id.
        kind: TASK or FEEDBACK.
        identity: the value of the identity column, trimmed and not blank.
    """
    return hashlib.sha256(f"{project_id}\0{kind}\0{identity}".encode()).digest()[:DIGEST_BYTES]
