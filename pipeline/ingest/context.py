"""What every chunk of a load needs to know, kept with the stage."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict

from pipeline import uploads
from pipeline.database import transaction
from pipeline.errors import FatalError, NotFoundError
from pipeline.ledger import Claim
from schemas.enums import UploadFormat
from schemas.own import Upload


class LoadContext(BaseModel):
    """The file's reading as the plan decided it, and the job's time of loading (UTC, without zone)."""

    model_config = ConfigDict(frozen=True)

    project_id: str
    # What the records' column `source` says.
    source: str
    # What chunks are read from: the upload itself, or what the plan made of it.
    storage_key: str
    format: UploadFormat
    # The upload's own encoding.
    encoding: str
    # Of CSV: what its columns are called, and what is between them.
    header: tuple[str, ...] = ()
    delimiter: str = ","
    loaded_at: datetime


def find_upload(held: Claim) -> Upload:
    """Give the upload of a claimed job.

    Raises:
        FatalError: the upload was removed.
    """
    try:
        with transaction() as session:
            return uploads.find_upload(session, held.ref.job_id)
    except NotFoundError as error:
        raise FatalError(str(error)) from error
