"""Every error that the pipeline raises on purpose.

PipelineError
├── TransientError        try again later: rate limit, time-out, connection, 5xx, deadlock, restart
│   └── ServerError       an AI server said so, or did not answer
├── PermanentError        this input will never work
│   ├── InputError        what a person gave is wrong; says what and what to do (code INVALID_INPUT)
│   │   ├── EmptyFileError    the file has no header or no data record (EMPTY_FILE)
│   │   ├── DuplicateError    the same bytes were loaded already (DUPLICATE_ENTRY)
│   │   ├── TooLargeError     more bytes than are taken (PAYLOAD_TOO_LARGE)
│   │   └── NotFoundError     no such project, job, window (RESOURCE_NOT_FOUND)
│   ├── ConflictError     the thing is in a state that does not allow this (JOB_ALREADY_RUNNING)
│   │   └── KeyTakenError     the same request made its job already; names it
│   ├── OffsetError       bytes for a place where an upload does not end (OFFSET_MISMATCH)
│   ├── ChecksumError     other bytes arrived than were sent (CHECKSUM_MISMATCH)
│   └── AnswerError       an AI server will not take this input, or its answer is of no use
└── FatalError            stops the whole job: refused key, unknown model, no credit, unreadable file
"""


class PipelineError(Exception):
    """Anything the pipeline says about its work. The message is made for the person who reads it."""

    code = "PIPELINE_ERROR"


class TransientError(PipelineError):
    """Try again later. `retry_after` is in seconds, None where nobody said how long to wait."""

    code = "TRANSIENT"

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ServerError(TransientError):
    """An AI server did not do its work; `status` is that of HTTP, None where there was no answer."""

    code = "SERVER_ERROR"

    def __init__(self, message: str, *, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message, retry_after=retry_after)
        self.status = status


class StorageError(TransientError):
    """Uploads cannot be read or written for the moment."""

    code = "STORAGE_ERROR"


class PermanentError(PipelineError):
    """This input will never work."""

    code = "PERMANENT"


class InputError(PermanentError):
    """What a person gave is wrong. The message says what is wrong and what to do."""

    code = "INVALID_INPUT"


class EmptyFileError(InputError):
    """A file without a header or without a data record."""

    code = "EMPTY_FILE"


class DuplicateError(InputError):
    """The same thing was given before; `job_id` names the earlier job."""

    code = "DUPLICATE_ENTRY"

    def __init__(self, message: str, *, job_id: str | None = None) -> None:
        super().__init__(message)
        self.job_id = job_id


class TooLargeError(InputError):
    """More bytes than are taken."""

    code = "PAYLOAD_TOO_LARGE"


class NotFoundError(InputError):
    """There is no such project, job, record or window."""

    code = "RESOURCE_NOT_FOUND"


class ConflictError(PermanentError):
    """The thing is in a state that does not allow what was asked; `job_id` names the job in the way."""

    code = "JOB_ALREADY_RUNNING"

    def __init__(self, message: str, *, job_id: str | None = None) -> None:
        super().__init__(message)
        self.job_id = job_id


class KeyTakenError(ConflictError):
    """A request with the same key has made its job already: `job_id` is what both are to be told."""


class OffsetError(PermanentError):
    """Bytes came for a place where the upload does not end, or ended no longer when they came."""

    code = "OFFSET_MISMATCH"


class ChecksumError(PermanentError):
    """The bytes that came are not those that were sent."""

    code = "CHECKSUM_MISMATCH"


class AnswerError(PermanentError):
    """An AI server will not take this input, or what it answers is not to be believed; `code` says which."""

    code = "INVALID_ANSWER"


class FatalError(PipelineError):
    """No record of this job can succeed until somebody changes something."""

    code = "FATAL"
