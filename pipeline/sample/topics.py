"""What the sample's records are about: topics with sentences of their own, so that neighbours make sense."""

TOPICS: dict[str, tuple[str, ...]] = {
    "a delayed shipment": (
        "The parcel left the warehouse in Rotterdam on Monday and has not moved since.",
        "The carrier blames a strike of the lorry drivers.",
        "The customer was promised delivery within three working days.",
        "A refund of the shipping costs was already offered.",
    ),
    "the new expense policy": (
        "Receipts above 25 euros have to be scanned within a week.",
        "Taxi rides need the approval of a manager from next month on.",
        "The finance team pays claims back with the salary.",
        "Per diems for trips abroad were raised for the first time since 2019.",
    ),
    "a broken login page": (
        "The page answers with error 500 after the password is sent.",
        "It began with the release of Thursday evening.",
        "Accounts with two-factor sign-in are not affected.",
        "The log shows that the session cookie is refused by the proxy.",
    ),
    "the history of tea": (
        "Tea was drunk as a medicine in China long before it became a pleasure.",
        "Dutch merchants brought the first chests to Europe around 1610.",
        "Black tea is oxidized before drying, green tea is not.",
        "The Boston harbour smelled of tea for weeks in December 1773.",
    ),
    "safe use of ladders": (
        "One person in the workshop fell from the third rung last spring.",
        "A ladder stands safely at one unit out for every four units up.",
        "Both hands are needed for climbing, so tools belong in a belt.",
        "Damaged ladders are marked with red tape and taken out of use.",
    ),
    "planting tomatoes on a balcony": (
        "The balcony faces south and gets six hours of sun.",
        "Each plant needs a pot of at least fifteen litres.",
        "Side shoots are pinched out once a week.",
        "Watering in the morning keeps the leaves dry and the blight away.",
    ),
    "the moons of Jupiter": (
        "Galileo saw four of them in January 1610 through a small telescope.",
        "Europa hides an ocean under a shell of ice.",
        "Io has more active volcanoes than any other body in the solar system.",
        "Ganymede is larger than the planet Mercury.",
    ),
    "saving for retirement": (
        "The employer adds half of what is paid in, up to a limit.",
        "Index funds cost less than funds with a manager.",
        "Thirty years of interest matter more than the size of the first payment.",
        "Money that is needed within five years does not belong in shares.",
    ),
    "choosing a bicycle": (
        "The way to work is nine kilometres with one steep hill.",
        "Hub gears need less care than a derailleur.",
        "The frame should leave two fingers of room above the top tube.",
        "A used bicycle of good make is often the better buy.",
    ),
    "onboarding in the first week": (
        "The laptop and the badge are handed out at nine on Monday.",
        "Every newcomer gets a buddy from another team.",
        "The first small change should be merged by Friday.",
        "Half of last year's newcomers did not know whom to ask for access rights.",
    ),
    "the migration of storks": (
        "White storks avoid the open sea, where there is no rising warm air.",
        "The western flock crosses at Gibraltar, the eastern one at the Bosporus.",
        "Some birds now spend the winter on rubbish tips in Spain.",
        "A ringed stork was seen again in the same nest after fourteen years.",
    ),
    "a failed database backup": (
        "The job stopped at 02:14 because the disk was full.",
        "The last backup that can be restored is four days old.",
        "Nobody had tried a restore since the move to the new server.",
        "The alert went to a mailbox that no one reads.",
    ),
    "how vaccines work": (
        "The immune system learns the shape of a protein without the illness.",
        "Memory cells may last for decades.",
        "A sore arm for a day is common and harmless.",
        "Enough immune people protect those who cannot be vaccinated.",
    ),
    "a museum visit with children": (
        "The dinosaur hall is on the ground floor and opens at ten.",
        "After ninety minutes most children are hungry.",
        "The workshop with clay costs four euros and has to be booked.",
        "Drawing one exhibit is remembered longer than seeing fifty.",
    ),
    "renting a flat": (
        "The landlord asks for a deposit of three months.",
        "Heating is not part of the rent that is advertised.",
        "Scratches on the floor were noted when the keys were handed over.",
        "The notice period is three months to the end of a month.",
    ),
    "the rules of chess": (
        "The king may castle only if it has not moved and is not in check.",
        "A pawn that reaches the last rank becomes another piece.",
        "Stalemate is a draw, however many pieces the other side has.",
        "En passant is possible only at once.",
    ),
}
AUDIENCES = (
    "new employees",
    "customers",
    "engineers",
    "school children",
    "the board",
    "beginners",
    "tourists",
    "older readers",
)
FORMATS = (
    "an email of 120 words",
    "a table with three columns",
    "a list of five points",
    "a dialogue of ten lines",
    "one paragraph of at most 80 words",
    "step-by-step instructions",
    "a headline with a short text",
    "a page of questions and answers",
)
GOALS = (
    "The goal of this task is a text on {topic} that {audience} understand at once.",
    "The goal of this task is that {audience} know what to do about {topic}.",
    "Goal: after reading the result, {audience} can decide for themselves when it comes to {topic}.",
)
DEMANDS = (
    "Keep the language plain, and explain every abbreviation and technical term.",
    "Use only the facts of the background, which are all that is needed; do not guess what is missing.",
    "Name the source of every fact, so that an error can be found.",
    "This task asks for one text only; the headline is a task of its own.",
    "The answer must not contain anything harmful or dangerous.",
    "The expected answer has 150 words at most and says in its first sentence what it is for.",
)
VAGUE_TASKS = (
    "Write something about {topic}, you know what I mean.",
    "pls write smth nice on {topic} asap",
    "Can you write the thing about {topic} again? Like the last one but better.",
)
STRENGTHS = (
    "is clearly structured, so that the reader finds the main point at once",
    "uses plain language, which helps readers who are new to it",
    "names its sources, so that every figure can be checked",
    "keeps to the length that was asked for",
    "speaks to {audience} in words that they know",
)
WEAKNESSES = (
    "It never says who it is for; I suggest to name {audience} in the first sentence.",
    "It repeats the question before it begins; leaving that out would save the reader time.",
    "One figure is invented; it should be replaced by one from the background, or dropped.",
    "It ends without a conclusion; one sentence on what to do next would mend that.",
    "Two terms are not explained; a short definition in brackets would be enough.",
)
EVIDENCE = (
    'I rate it {mark} because of this sentence: "{fact}"',
    'Evidence for the {mark}: it says "{fact}", and that is correct.',
    'The mark is {mark}. The sentence "{fact}" is wrong in the text, I checked it twice.',
)
VAGUE_FEEDBACK = (
    "Good answer, thanks.",
    "The answer is fine, I guess. Next please.",
    "I read the answer about {topic} on the train, then it began to rain.",
    "Terrible answer, whoever did this should find another job.",
)
ASIDES = (
    "Café, naïve, 東京 and 🚲 should stay as they are.",
    'Somebody said: "keep it short".',
    "Semicolons; commas, and all.",
    "Grüße aus Köln, und danke!",
)
# These hold none of the sample's keywords.
STRAYS = (
    "Nothing to see here, please move along to the next one.",
    "Test row from the import of last year, can be deleted.",
    "The coffee machine on the second floor is out of order again, use the one next to the library.",
    "asdf asdf asdf, checking whether the form still saves.",
)
NOTES = ("", "", "", "ok", "see ticket OPS-1432", 'checked twice, "really"', "räumt auf; später")
