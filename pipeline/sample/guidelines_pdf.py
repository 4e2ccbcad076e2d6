"""The sample's guidelines: two typeset pages with numbered rules."""

from pathlib import Path

from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle, getSampleStyleSheet
from reportlab.lib.units import cm
from reportlab.platypus import PageBreak, Paragraph, SimpleDocTemplate, Spacer

TASK_RULES = (
    "State the goal of the task in the first sentence, so that the reader knows what the result is for.",
    "Name the audience that the answer is written for, such as new employees, customers or engineers.",
    "Give the length and the format of the expected answer: a list, a table, an email or a number of words.",
    "Provide the background and the facts that are needed to solve the task without guessing.",
    "Ask for one thing only, and split a task that asks for several things into several tasks.",
    "Write in plain language, and explain every abbreviation and technical term.",
    "Never ask for anything harmful, illegal, hateful or dangerous.",
)
FEEDBACK_RULES = (
    "Name at least one concrete strength of the answer and say why it helps the reader.",
    "Name each weakness of the answer together with a suggestion of how to improve it.",
    "Explain the rating with evidence that is quoted from the answer.",
    "Stay polite and respectful, and speak about the work and never about the person.",
    "Check the facts and the sources of the answer, and point out every error that you find.",
)
RULES = TASK_RULES + FEEDBACK_RULES


def write_guidelines_pdf(path: Path) -> tuple[str, ...]:
    """Write the PDF and give its rules."""
    styles = getSampleStyleSheet()
    rule = ParagraphStyle(
        "rule", parent=styles["BodyText"], leftIndent=0.8 * cm, firstLineIndent=-0.8 * cm, spaceAfter=8
    )
    story = [
        Paragraph("Guidelines for tasks and feedback", styles["Title"]),
        Paragraph(
            "These rules apply to every task that is written and to every feedback that is given.",
            styles["BodyText"],
        ),
        Spacer(1, 0.5 * cm),
        Paragraph("Tasks", styles["Heading2"]),
        *(Paragraph(f"{number}. {text}", rule) for number, text in enumerate(TASK_RULES, start=1)),
        PageBreak(),
        Paragraph("Feedback", styles["Heading2"]),
        *(
            Paragraph(f"{number}. {text}", rule)
            for number, text in enumerate(FEEDBACK_RULES, start=len(TASK_RULES) + 1)
        ),
    ]
    # Without a date or an id of its own, the same file is written every time.
    document = SimpleDocTemplate(
        str(path),
        pagesize=A4,
        title="Guidelines for tasks and feedback",
        invariant=1,
        leftMargin=2.5 * cm,
        rightMargin=2.5 * cm,
        topMargin=2.5 * cm,
        bottomMargin=2.5 * cm,
    )
    document.build(story)
    return RULES
