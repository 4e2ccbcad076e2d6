"""The sample's guidelines: two typeset pages with numbered rules."""

from pathlib import Path

from reportlab.lib.colors import HexColor
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import cm
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import Flowable, HRFlowable, PageBreak, Paragraph, SimpleDocTemplate, Spacer

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


_TITLE = "Guidelines for tasks and feedback"
_INK, _ACCENT, _FAINT = HexColor("#222222"), HexColor("#1f4e79"), HexColor("#777777")
_BODY = ParagraphStyle(
    "body", fontName="Times-Roman", fontSize=12.5, leading=18, textColor=_INK, spaceAfter=8
)
_HEAD = ParagraphStyle(
    "head", fontName="Helvetica-Bold", fontSize=24, leading=30, textColor=_ACCENT, spaceAfter=6
)
_SECTION = ParagraphStyle("section", _HEAD, fontSize=15, leading=20, spaceBefore=16, spaceAfter=10)
# The number is text before the rule, hung into the margin: a reader of the PDF finds "1. State the goal".
_RULE = ParagraphStyle(
    "rule",
    _BODY,
    leftIndent=0.9 * cm,
    bulletFontName="Helvetica-Bold",
    bulletFontSize=11,
    bulletColor=_ACCENT,
    spaceAfter=11,
)


def write_guidelines_pdf(path: Path) -> tuple[str, ...]:
    """Write the PDF and give its rules; the same file every time."""
    story = [
        Paragraph(_TITLE, _HEAD),
        HRFlowable(width="100%", thickness=1.2, color=_ACCENT, spaceBefore=2, spaceAfter=12),
        Paragraph(
            "These rules apply to every task that is written and to every feedback that is given. "
            "They are few, so that everybody can know them by heart.",
            _BODY,
        ),
        *_section("Tasks", TASK_RULES, first=1),
        PageBreak(),
        *_section("Feedback", FEEDBACK_RULES, first=len(TASK_RULES) + 1),
        Spacer(1, 0.6 * cm),
        HRFlowable(width="100%", thickness=0.6, color=_FAINT, spaceAfter=10),
        Paragraph("Whoever finds a rule unclear asks the operations team, which keeps this document.", _BODY),
    ]
    document = SimpleDocTemplate(
        str(path),
        pagesize=A4,
        title=_TITLE,
        invariant=1,  # no date and no id of its own
        leftMargin=2.5 * cm,
        rightMargin=2.5 * cm,
        topMargin=2.5 * cm,
        bottomMargin=2.5 * cm,
    )
    document.build(story, onFirstPage=_number_page, onLaterPages=_number_page)
    return RULES


def _section(title: str, rules: tuple[str, ...], *, first: int) -> list[Flowable]:
    return [
        Paragraph(title, _SECTION),
        *(Paragraph(rule, _RULE, bulletText=f"{number}.") for number, rule in enumerate(rules, start=first)),
    ]


def _number_page(canvas: Canvas, document: SimpleDocTemplate) -> None:
    canvas.setFont("Helvetica", 9)
    canvas.setFillColor(_FAINT)
    canvas.drawCentredString(A4[0] / 2, 1.4 * cm, f"Page {document.page} of 2")
