"""The files that a soak submits: each row of them is known by its text."""

from dataclasses import dataclass

from schemas.enums import RecordType

# What the text of every record begins with, its identity behind it.
WORD = "story"
_PEOPLE = 40
# One row in so many has no text, or repeats an earlier one's identity: whichever is loaded first is kept.
_EMPTY_EVERY, _DOUBLE_EVERY = 50, 25


@dataclass(frozen=True)
class Batch:
    """A file of `rows` rows for a project."""

    name: str
    project: int
    record_type: RecordType
    rows: int

    @property
    def identities(self) -> list[str]:
        """The identities of the rows that become records."""
        left = self.rows - self.rows // _EMPTY_EVERY - self.rows // _DOUBLE_EVERY
        return [f"{self.name}-{number}" for number in range(left)]

    def content(self) -> bytes:
        """Give the file."""
        identities = self.identities
        lines = [
            f"{identity},{WORD} {identity} of {self.name} and {number % 97} more things,{_person(number)}"
            for number, identity in enumerate(identities)
        ]
        lines += [
            f'{self.name}-empty{number},"",{_person(number)}' for number in range(self.rows // _EMPTY_EVERY)
        ]
        lines += [
            f"{identities[number]},{WORD} {identities[number]} once more,{_person(number)}"
            for number in range(self.rows // _DOUBLE_EVERY)
        ]
        return "\n".join(["id,prompt,created_by_email", *lines, ""]).encode()


def _person(number: int) -> str:
    return f"p{number % _PEOPLE}@example.com"
