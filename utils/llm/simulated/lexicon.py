"""What the simulated models can say and what they can read: cues, skills, and many phrasings of each.

Every phrasing is a natural sentence that the detectors of `features` read back as exactly its own cue (a test holds
them to it). The optimizer model writes these; the task model leaks the `hints` of the skills it lacked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum


class Form(StrEnum):
    """The form that an answer should have."""

    LETTER = "letter"  # one of a few single letters or digits
    LABEL = "label"  # one of a few words
    NUMBER = "number"
    SHORT = "short"  # a few words
    SUMMARY = "summary"  # a few sentences


class Cue(StrEnum):
    """What a sentence of a prompt can do for every item, besides its format instruction and the skill rules."""

    TASK = "task"
    COT = "cot"
    VERIFY = "verify"
    ROLE = "role"
    CONCISE = "concise"


FORMAT: dict[Form, tuple[str, ...]] = {
    Form.LETTER: (
        "Reply with only the letter of the correct option.",
        "Give just the letter of your option and nothing else.",
        "Your response must end with a single letter.",
        "Write the letter of the right option alone on the last line.",
        "Output exactly one letter, without any other text.",
        "The response should be a single capital letter.",
        "Respond with the option letter only.",
        "State only the letter that belongs to the best option.",
        "Print a single letter and stop there.",
        "Return one letter, with no words around it.",
    ),
    Form.LABEL: (
        "Reply with exactly one of the labels and nothing else.",
        "Output only the label, spelled as it is given.",
        "Your response must be a single label from the list.",
        "Give just one label, without any other text.",
        "Write the label alone on the last line.",
        "Respond with one label only, copied as it stands.",
        "Return the label and no other words.",
        "State one label and stop there.",
        "The response should hold one of the allowed labels and nothing more.",
        "Print the name of the label by itself.",
    ),
    Form.NUMBER: (
        "End your response with #### followed by the final number.",
        "Write the final number alone on the last line.",
        "Finish with a line that holds #### and the number only.",
        "Put the final number after #### on the last line.",
        "The last line must be #### and then the final number in digits.",
        "Give the final number in digits, alone at the end.",
        "Output the final number on its own last line and stop there.",
        "Close with #### and a single number.",
        "State the final number once, in digits, as the last thing you write.",
        "Conclude with the numeric value only, after ####.",
    ),
    Form.SHORT: (
        "Reply with only the answer, in as few words as possible.",
        "Give a short phrase and no more than that.",
        "Output just the answer itself, without any wrapper.",
        "Respond with the shortest phrase that is complete.",
        "Write only the answer, copied in the exact words of the text.",
        "Return a name or a short phrase and nothing else.",
        "Your response must be only the answer, with no explanation.",
        "State the bare answer and stop there.",
        "Use a few words only for the final answer.",
        "Print the exact phrase and nothing more.",
    ),
    Form.SUMMARY: (
        "Write three short sentences, one for each main event.",
        "Give the highlights as a few plain sentences.",
        "Output three or four short sentences and nothing else.",
        "Keep the response to three sentences in the style of news highlights.",
        "Return the highlights, with one sentence for each.",
        "Respond with a handful of short sentences.",
        "Use no more than four sentences for the whole response.",
        "Write the highlights and no introduction.",
        "Produce a few compact sentences in the order of importance.",
        "The response should be three brief sentences.",
    ),
}

TASK: dict[Form, tuple[str, ...]] = {
    Form.LETTER: (
        "Answer the question.",
        "Choose the correct answer to the question.",
        "Select the option that answers the question best.",
        "Read the question and pick the best option.",
        "Determine which of the options is correct.",
        "Identify the option that is right.",
        "Your task is to choose the right option for the question.",
        "Find the correct answer among the options.",
    ),
    Form.LABEL: (
        "Classify the input.",
        "Decide which class the input belongs to.",
        "Determine the right class for the input.",
        "Your task is to classify what you are given.",
        "Read the input and decide where it belongs.",
        "Judge whether the input meets the criterion.",
        "Identify the class that fits the input.",
        "Assess the input and classify it.",
    ),
    Form.NUMBER: (
        "Solve the problem.",
        "Answer the question.",
        "Solve the following math problem.",
        "Work out the result that the problem asks for.",
        "Your task is to solve the problem.",
        "Determine the quantity that is asked for.",
        "Find the value that the question asks for.",
        "Read the problem and solve it.",
    ),
    Form.SHORT: (
        "Answer the question.",
        "Answer the question from the given text.",
        "Read the text and answer the question.",
        "Find the answer to the question in the passages.",
        "Your task is to answer the question.",
        "Determine what the question asks for.",
        "Identify what the question asks about.",
        "Work out the answer to the question.",
    ),
    Form.SUMMARY: (
        "Summarize the article.",
        "Read the article and summarize it.",
        "Your task is to summarize the text.",
        "Summarize what happened in the article.",
        "Summarise the main points of the text.",
        "Identify the main points of the article.",
        "Determine what matters most in the text and summarize it.",
        "Summarize the news story for a busy reader.",
    ),
}

GENERAL: dict[Cue, tuple[str, ...]] = {
    Cue.COT: (
        "Think step by step.",
        "Let's think step by step.",
        "Reason through the input one step at a time.",
        "Think it through before you commit.",
        "Lay out your reasoning first.",
        "Show your reasoning before the result.",
        "Work through it in small steps.",
        "Break it into steps and take them in turn.",
        "Think carefully and explain your reasoning.",
        "Take a moment to reason it through first.",
    ),
    Cue.VERIFY: (
        "Double-check the result before you finish.",
        "Verify your result at the end.",
        "Check your result against the input once more.",
        "Before you finish, confirm that the result holds.",
        "Review your result and correct any slip.",
        "Re-read the input to confirm the result.",
        "Check that nothing was overlooked.",
        "Verify it a second time before you finish.",
    ),
    Cue.ROLE: (
        "You are an expert in this field.",
        "You are a careful expert.",
        "Act as an experienced specialist.",
        "You are a meticulous analyst.",
        "You are a seasoned examiner with a sharp eye.",
        "Act as a patient teacher who knows the subject.",
        "You are a knowledgeable assistant.",
        "Imagine you are a leading researcher.",
    ),
    Cue.CONCISE: (
        "Be concise.",
        "Keep it brief.",
        "Be brief and to the point.",
        "Keep your reasoning short.",
        "Do this concisely.",
        "Proceed briefly and skip what is not needed.",
        "Be terse in all that you say.",
        "Leave out all that is not needed and be brief.",
    ),
}


@dataclass(frozen=True)
class Skill:
    """Something that some items need: a pattern, the rules that teach it, the hints that betray its lack."""

    name: str
    pattern: re.Pattern[str]
    rules: tuple[str, ...]
    hints: tuple[str, ...]


def _skill(name: str, pattern: str, rules: tuple[str, ...], hints: tuple[str, ...]) -> Skill:
    return Skill(name, re.compile(pattern), rules, hints)


SKILLS: tuple[Skill, ...] = (
    _skill(
        "units",
        r"\bunits?\b",
        (
            "Keep track of the units all the way.",
            "Convert everything to the same units first.",
            "Pay attention to the units of each quantity.",
            "Make sure that the units agree.",
            "Watch for a change of unit in the wording.",
            "Carry the unit along with every quantity.",
        ),
        (
            "The units were not brought into line here.",
            "This loses track of the units.",
            "The change of unit went unnoticed.",
            "The units do not agree with what was asked.",
        ),
    ),
    _skill(
        "negation",
        r"\bnegat(?:ion|ions|ed)\b|\bwords? (?:like|such as) (?:not|except)\b",
        (
            "Watch for negation in the wording.",
            "Look out for words such as not and except.",
            "Notice every negated phrase.",
            "Treat a negated statement as the opposite of its plain form.",
            "Mark each negation before you go on.",
            "Be alert to negation and to exceptions.",
        ),
        (
            "A negation in the wording was missed.",
            "The negated phrase was read as its opposite.",
            "Words such as not were passed over.",
            "This overlooks the negation.",
        ),
    ),
    _skill(
        "time",
        r"\btimeline\b|\bchronolog\w+\b|\border of events\b|\bdates?\b",
        (
            "Put the dates in order first.",
            "Build a timeline of what happened.",
            "Keep the chronological order in mind.",
            "Respect the order of events.",
            "Compare the dates before you settle.",
            "Note every date that is given.",
        ),
        (
            "The order of events was mixed up.",
            "The dates were not compared.",
            "The chronology is off here.",
            "This gets the timeline wrong.",
        ),
    ),
    _skill(
        "reference",
        r"\bpronouns?\b|\breferents?\b|\bsame name\b|\brefers? to\b",
        (
            "Make clear what each pronoun refers to.",
            "Resolve every pronoun to its referent.",
            "Keep apart people who share the same name.",
            "Work with the referent and not with the pronoun.",
            "Be careful about who or what a word refers to.",
            "Replace each pronoun by its referent in your mind.",
        ),
        (
            "A pronoun was tied to the wrong referent.",
            "Two things of the same name were confused.",
            "It is unclear what the phrase refers to.",
            "The pronouns were not resolved.",
        ),
    ),
    _skill(
        "quantifiers",
        r"\bquantifiers?\b|\babsolute (?:words?|terms?)\b|\bwords? (?:like|such as) (?:all|always|never|some)\b",
        (
            "Mind quantifiers in the wording.",
            "Be slow to trust absolute words.",
            "Weigh words such as always and never.",
            "Take each quantifier at its word.",
            "Be wary of absolute terms in a claim.",
            "Ask of each quantifier how far it reaches.",
        ),
        (
            "A quantifier was not taken at its word.",
            "The absolute words should have been a warning.",
            "This passes over the quantifiers.",
            "Words such as always were not weighed.",
        ),
    ),
    _skill(
        "grounding",
        r"\boutside knowledge\b|\bgrounded\b|\bsupported by\b|\bbacked by\b",
        (
            "Rely on the input and not on outside knowledge.",
            "Accept a claim only if it is supported by the input.",
            "Stay grounded in what is given.",
            "Set aside any outside knowledge.",
            "Ask what each claim is backed by.",
            "Keep everything grounded in the input.",
        ),
        (
            "This claim is not supported by the input.",
            "Outside knowledge crept in.",
            "The result is not grounded in what was given.",
            "Nothing here is backed by the input.",
        ),
    ),
    _skill(
        "linking",
        r"\bintermediate\b|\blink(?:s|ed|ing)?\b|\bboth facts\b|\btwo facts\b",
        (
            "Link the facts that belong together.",
            "Name the intermediate fact first.",
            "Combine the two facts that are needed.",
            "Look for the intermediate thing that ties both ends.",
            "Make each link between facts explicit.",
            "Bring both facts together before you conclude.",
        ),
        (
            "The intermediate fact was skipped.",
            "Two facts needed to be put together here.",
            "The link between the facts is missing.",
            "Only one of both facts was used.",
        ),
    ),
    _skill(
        "comparison",
        r"\bsuperlatives?\b|\bcomparisons?\b|\bcomparatives?\b|\bside by side\b",
        (
            "Make every comparison explicit.",
            "Set the candidates side by side.",
            "Take each superlative literally.",
            "Note what each comparison is made with.",
            "Handle comparatives with care.",
            "Put both sides of a comparison next to each other.",
        ),
        (
            "The comparison was turned around.",
            "The superlative was not taken literally.",
            "The candidates were never set side by side.",
            "This mixes up the two sides of the comparison.",
        ),
    ),
    _skill(
        "cause",
        r"\bcaus(?:e|es|al|ation|ed)\b",
        (
            "Separate cause from effect.",
            "Ask what causes what.",
            "Trace the causal chain.",
            "Do not confuse a cause with what merely goes along with it.",
            "Name the cause before the consequence.",
            "Look for the direct cause.",
        ),
        (
            "Cause and effect were confused.",
            "The causal chain was not followed.",
            "The direct cause was missed.",
            "This names a consequence and not the cause.",
        ),
    ),
    _skill(
        "conditions",
        r"\bconditions?\b|\bconstraints?\b",
        (
            "Go through every condition that is stated.",
            "Test each candidate against all conditions.",
            "List the constraints first.",
            "Make sure that no condition is left out.",
            "Honour each constraint of the input.",
            "Treat every condition as binding.",
        ),
        (
            "One of the conditions was ignored.",
            "A stated constraint is not met.",
            "This violates a condition of the input.",
            "Not every condition was considered.",
        ),
    ),
    _skill(
        "precision",
        r"\bround(?:ed|ing|s)\b|\bdecimals?\b|\bprecision\b",
        (
            "Avoid rounding until the very end.",
            "Keep full precision on the way.",
            "Be careful with decimals.",
            "Carry all decimals through.",
            "Mind the precision that is asked for.",
            "Treat rounding with care.",
        ),
        (
            "The rounding came too early.",
            "A decimal was lost on the way.",
            "The precision is not what was asked for.",
            "Decimals were dropped here.",
        ),
    ),
    _skill(
        "misconceptions",
        r"\bmisconceptions?\b|\bmyths?\b|\bpopular beliefs?\b",
        (
            "Beware of common misconceptions.",
            "Prefer facts to popular beliefs.",
            "Do not repeat a myth because it is well known.",
            "Question each popular belief.",
            "Set myths and facts apart.",
            "Suspect a misconception where a claim sounds too familiar.",
        ),
        (
            "This repeats a common misconception.",
            "A popular belief was taken for a fact.",
            "The familiar myth was trusted.",
            "The claim is a misconception.",
        ),
    ),
    _skill(
        "definitions",
        r"\bdefinitions?\b|\bdefined\b|\btechnical terms?\b",
        (
            "Recall the definition of each technical term.",
            "Use terms as they are defined.",
            "Go back to the definitions.",
            "Take technical terms in their strict sense.",
            "Ask how each term is defined.",
            "Start from the definition of the key term.",
        ),
        (
            "A technical term was taken loosely.",
            "The definition of the key term was not applied.",
            "The term is used against its definition.",
            "This forgets how the term is defined.",
        ),
    ),
    _skill(
        "specificity",
        r"\bspecific(?:s|ally|ity)?\b|\btoo general\b|\btoo broad\b",
        (
            "Prefer the most specific candidate.",
            "Be specific and not general.",
            "Stay with the specifics of the input.",
            "Reject what is too general.",
            "Look for specific details.",
            "Avoid anything that is too broad.",
        ),
        (
            "This is too general for what was asked.",
            "A more specific candidate was available.",
            "The specifics of the input were passed over.",
            "The choice is too broad.",
        ),
    ),
    _skill(
        "totals",
        r"\btotals?\b|\bsubtotals?\b|\bcounted twice\b|\bdouble counting\b",
        (
            "Tell parts from totals.",
            "Keep a running total.",
            "Make sure that nothing is counted twice.",
            "Note whether a figure is a part or a total.",
            "Write down each subtotal.",
            "Be on guard against double counting.",
        ),
        (
            "A part was taken for the total.",
            "Something was counted twice.",
            "The subtotal was not carried over.",
            "There is double counting here.",
        ),
    ),
    _skill(
        "attribution",
        r"\battribut\w+\b|\bwho said\b|\bspeakers?\b",
        (
            "Attribute each statement to its source.",
            "Keep track of who said what.",
            "Note the speaker of every claim.",
            "Pay attention to attribution.",
            "Tell the speaker from the author.",
            "Make the attribution of each claim clear.",
        ),
        (
            "The statement was attributed to the wrong source.",
            "It was overlooked who said it.",
            "The attribution is wrong here.",
            "Two speakers were mixed up.",
        ),
    ),
)

IRRELEVANT: tuple[str, ...] = (
    "The quality of the work matters a great deal.",
    "Stay calm and take pride in what you do.",
    "This is part of a larger project.",
    "Remember that people count on you.",
    "Every case is a little different.",
    "Treat each input with respect.",
    "It is good to be curious.",
    "A good mood helps with hard cases.",
    "Thank you for your help with this.",
    "There is plenty of time for each case.",
    "Keep a professional tone.",
    "The inputs come from many places.",
)

PADDING: tuple[str, ...] = (
    "In other words, do in each case what has been described here, in the way in which it has been described, and "
    "with the same care from the first case to the last one, whatever the case may look like at first sight.",
    "It goes without saying that all of this holds for short inputs as well as for long ones, for plain ones as well "
    "as for odd ones, and for those that seem easy as well as for those that seem hard.",
    "As has been said, and as cannot be said too often, the point of the exercise is to do well on as many cases as "
    "one can, and the way to do well is to go about it in the manner that is laid out above.",
)

# one pass of these over a sentence is a paraphrase; no word of a cue's pattern is among them
SYNONYMS: dict[str, str] = {
    "given": "provided",
    "provided": "given",
    "following": "below",
    "correct": "right",
    "right": "correct",
    "best": "most fitting",
    "carefully": "with care",
    "must": "has to",
    "should": "ought to",
    "important": "essential",
    "essential": "important",
    "ensure": "make sure",
    "help": "aid",
    "large": "big",
    "about": "concerning",
    "each": "every",
    "every": "each",
    "based on": "going by",
    "careful": "thorough",
    "main": "principal",
    "whole": "entire",
    "needed": "required",
}

# what can stand around an instruction without saying more
OPENINGS: tuple[str, ...] = (
    "Please",
    "Now",
    "Here, please",
    "In each case,",
    "Kindly",
    "For this one,",
    "Your task now:",
    "What you do:",
    "From here on,",
    "Go ahead and",
    "To begin,",
    "Simply",
)

ENDINGS: tuple[str, ...] = (
    "as well as you can",
    "from what you see",
    "when it comes in",
    "as it stands",
    "this time",
    "in the usual way",
    "for us",
    "like that",
    "right away",
    "as you go",
    "for every input",
    "here",
)

REASONING: tuple[str, ...] = (
    "First, look at what is being asked.",
    "The wording points to the key detail.",
    "Next, weigh the candidates against that detail.",
    "Some of them can be ruled out at once.",
    "What remains has to fit everything that is given.",
    "Putting this together settles the matter.",
    "The key detail decides between what is left.",
    "Going through the material in turn narrows it down.",
)

CHECKING: tuple[str, ...] = (
    "Looking over this once more, it holds.",
    "Going back to the wording confirms it.",
    "A second look changes nothing.",
)

REFUSALS: tuple[str, ...] = (
    "I'm sorry, but I can't help with that request.",
    "I cannot assist with this.",
    "I'm not able to respond to that.",
)

COMMON = """
a about above across act add after again against all almost along already also although always am among an and another
any anything are area around as ask asked at away back base based be because become been before began begin being
below best better between big body book both bring but by call came can cannot car care case cause change character
check child choice city class clear close come common consider content context could country course cut data day
decide describe detail did different do document does done down draw during each early easy eight either else end
enough even event ever every example expect explain eye face fact false family far few field figure final find first
five follow for form found four free friend from full further gave general get give given go going good got great
group grow had half hand happen hard harmful harmless has have he head hear help her here high him his home hour house
how however human idea if image important in include increase information input instead into is issue it its item job
just keep key kind know knowledge known label large last late later law lead learn least leave left less let letter
level life like likely line list listen little live long look made main make man many mark math may me mean meaning
measure might mind money month more most mother mouth move much must my name near need never new news next night no
none not note nothing now number object of off often old on once one only open option or order other our out output
over own page paper paragraph part pass passage people perhaps person place plan play please point possible power
present problem process product prompt provide put question quickly quite quote read reader real really reason
relevant report request require respond response rest result return right room rule run said same say school science
score second see seem select sentence set seven several she short should show side similar simple since single six
small so some someone something sometimes soon sound source space speak special start state statement step still stop
story study style subject such sum summary support sure system table take talk task tell ten term test text than that
the their them then there these they thing think this those though thought three through time to today together told
too took topic toward tree true try turn two type under understand unit until up upon us use used user usually value
very view voice want was watch water way we week well went were what when where whether which while white who whole
why will with within without word work world would write written wrong year yes yet you young your
"""

# how a critique names a form that was not kept, so that whoever edits next can read it back
COMPLAINTS: dict[Form, str] = {
    Form.LETTER: "The expected form is a single letter.",
    Form.LABEL: "The expected form is exactly one of the labels.",
    Form.NUMBER: "The expected form is one final number at the end.",
    Form.SHORT: "The expected form is a bare answer in a few words.",
    Form.SUMMARY: "The expected form is a summary of a few sentences.",
}
NO_REASONING = "The answer came without any reasoning."
TOO_LONG = "The same could be reached with shorter reasoning."
NOTHING_WRONG = "Nothing is wrong with this answer."
