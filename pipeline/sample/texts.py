"""The texts of the sample's records: clear ones as the guidelines ask for, plain ones and vague ones."""

from random import Random

from pipeline.sample.topics import (
    ASIDES,
    AUDIENCES,
    DEMANDS,
    EVIDENCE,
    FORMATS,
    GOALS,
    STRENGTHS,
    TOPICS,
    VAGUE_FEEDBACK,
    VAGUE_TASKS,
    WEAKNESSES,
)

# Every text that is not a stray holds one of these.
KEYWORDS = ("answer", "write")


def happens(chance: Random, share: float) -> bool:
    """Tell whether something happens that happens in this share of cases, 0 to 1."""
    return chance.random() < share


def task_text(chance: Random) -> str:
    """Compose a task: 45% follow the guidelines, 35% in part, 20% are vague."""
    topic, audience, form = chance.choice(list(TOPICS)), chance.choice(AUDIENCES), chance.choice(FORMATS)
    facts = TOPICS[topic]
    style = chance.choices(("clear", "plain", "vague"), (45, 35, 20))[0]
    if style == "clear":
        parts = [
            chance.choice(GOALS).format(topic=topic, audience=audience),
            f"Write {form} about {topic}. The audience of the answer are {audience}.",
            f"Background:\n{_listed(chance.sample(facts, 2))}",
            *chance.sample(DEMANDS, 3),
        ]
    elif style == "plain":
        parts = [
            f"Write {form} about {topic}.",
            " ".join(facts),
            *chance.sample(DEMANDS, chance.randint(0, 1)),
        ]
    else:
        parts = [
            chance.choice(VAGUE_TASKS).format(topic=topic),
            *chance.sample(facts, chance.randint(0, 4)),
        ]
    return _joined(chance, parts)


def feedback_text(chance: Random) -> str:
    """Compose a feedback: 75% say what is good, what is not and why, 25% are vague."""
    topic, audience = chance.choice(list(TOPICS)), chance.choice(AUDIENCES)
    facts = TOPICS[topic]
    if happens(chance, 0.25):
        parts = [
            chance.choice(VAGUE_FEEDBACK).format(topic=topic),
            *chance.sample(facts, chance.randint(0, 3)),
        ]
        return _joined(chance, parts)
    strength, weakness = chance.choice(STRENGTHS), chance.choice(WEAKNESSES)
    parts = [f"The answer about {topic} {strength.format(audience=audience)}."]
    if happens(chance, 0.9):
        parts.append(weakness.format(audience=audience))
    if happens(chance, 0.6):
        mark = f"{chance.randint(1, 5)} of 5"
        parts.append(chance.choice(EVIDENCE).format(mark=mark, fact=chance.choice(facts)))
    if happens(chance, 0.5):
        parts.append(f"What it tells about {topic} is right: {' '.join(chance.sample(facts, 2))}")
    return _joined(chance, parts)


def slightly_changed(chance: Random, text: str) -> str:
    """Give a near-duplicate, as people make them who paste an earlier text and touch it up."""
    change = chance.choice(("prefix", "suffix", "spacing"))
    if change == "prefix":
        return f"Please note: {text}"
    return f"{text} Thank you!" if change == "suffix" else "\n\n".join(text.split("\n"))


def _listed(facts: list[str]) -> str:
    return "\n".join(f"- {fact}" for fact in facts)


def _joined(chance: Random, parts: list[str]) -> str:
    if happens(chance, 0.2):
        parts.append(chance.choice(ASIDES))
    return ("\n" if happens(chance, 0.5) else " ").join(parts)
