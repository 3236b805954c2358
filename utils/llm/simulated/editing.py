"""How the simulated optimizer model edits a prompt: evidence becomes fixes, and fixes become edits of the text.

An edit adds, replaces or removes one sentence in one text of the prompt. Lines with placeholders are never touched.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from utils.llm.simulated.draws import Stream
from utils.llm.simulated.features import Reading, is_gibberish, read_instructions, read_sentence, sentences
from utils.llm.simulated.lexicon import (
    COMPLAINTS,
    ENDINGS,
    FORMAT,
    GENERAL,
    IRRELEVANT,
    NO_REASONING,
    NOTHING_WRONG,
    OPENINGS,
    PADDING,
    SKILLS,
    SYNONYMS,
    TASK,
    TOO_LONG,
    Cue,
    Form,
)
from utils.llm.simulated.reading import ROLES, Case, Shown, Sight, is_misformed

MORE_EDITS = 0.35  # chance of each further edit in one proposal
MAX_EDITS = 3
RECOMMENDED = 1.0  # weight of a wording that is recommended
BIG_EDITS = 3  # where something radical is asked for, or a guess
BLIND_CUE = 0.3  # chance that a blind edit tries a piece of general advice, needed or not
PARAPHRASE_ONLY = 0.9  # chance that a request for a paraphrase is honoured to the letter
_BY_NAME = {skill.name: skill for skill in SKILLS}
_BRACES = re.compile(r"\{[A-Za-z_][A-Za-z0-9_]*\}")


@dataclass(frozen=True)
class Edit:
    """One change: `find` in the text of `target` is replaced, removed, or has `text` put after it."""

    target: str
    op: str  # insert_after, replace, delete
    find: str
    text: str
    why: str


@dataclass(frozen=True)
class Fix:
    """Something that the evidence speaks for, with how strongly it does."""

    weight: float
    why: str
    form: Form | None = None
    cue: Cue | None = None
    skill: str = ""
    sentence: str = ""
    drop: str = ""
    fresh: bool = False

    def phrasing(self, sight: Sight, stream: Stream) -> str:
        """A sentence that says it."""
        if self.sentence:
            return self.sentence
        if self.skill:
            return stream.pick(_BY_NAME[self.skill].rules)
        if self.form:
            return stream.pick(FORMAT[self.form])
        if self.cue is Cue.TASK:
            return stream.pick(TASK[sight.form or Form.SHORT])
        assert self.cue is not None
        return stream.pick(GENERAL[self.cue])


Texts = dict[str, str]


def propose(sight: Sight, roles: Sequence[str], q: float, stream: Stream) -> tuple[Texts, list[Edit]]:
    """A new version of the first prompt shown, and the edits that led to it."""
    base = dict(_base(sight).texts) if sight.prompts else {}
    if not any(text.strip() for text in base.values()):
        return fresh_prompt(sight, roles, stream), []
    if sight.wants_cross:
        base = _cross(sight, stream)
    editable = [role for role in ROLES if role in base and role in roles] or [roles[0] if roles else "system"]
    edits: list[Edit] = []
    for _ in range(_how_many(sight, stream)):
        fixes = [] if sight.is_paraphrase else find_fixes(sight, base)
        if fixes and stream.chance(q):
            fix = stream.pick_weighted(fixes, [fix.weight for fix in fixes])
            if fix.fresh:
                return {**base, **fresh_prompt(sight, roles, stream)}, edits
            edit = _edit_for(fix, sight, base, editable, stream)
        else:
            edit = _blind_edit(sight, base, editable, stream)
        if edit:
            base = apply(base, edit)
            edits.append(edit)
    return base, edits


def find_fixes(sight: Sight, texts: Mapping[str, str]) -> list[Fix]:
    """What the request's evidence speaks for, given what the prompt has already."""
    whole = "\n".join(texts.values())
    form = sight.form
    has = read_instructions(whole, form or Form.SHORT)
    says = [read_sentence(sentence) for sentence in sentences(whole)]
    formatted = has.format if form else True
    failures = len(sight.failures)
    fixes = [
        Fix(float(count), _BY_NAME[name].hints[0], skill=name)
        for name, count in sorted(Counter(sight.hinted).items())
        if name not in has.skills
    ]
    if form and not formatted:
        weight = sight.misformed or (1.5 if sight.examples else 0)
        fixes.append(Fix(float(weight), COMPLAINTS[form], form=form))
    if is_gibberish(whole):
        fixes.append(Fix(3.0 + failures, "The prompt is hard to understand.", fresh=True))
    if has.contradiction:
        fixes += [
            Fix(1.0 + failures / 2, "Two instructions contradict each other.", drop=sentence)
            for sentence, reading in zip(sentences(whole), says, strict=True)
            if form in reading.opposes or reading.quiet
        ]
    shown = failures + len(sight.examples)
    if shown or sight.unreasoned:
        fixes.append(Fix(0.5 * sight.unreasoned + 0.3 * bool(shown), NO_REASONING, cue=Cue.COT))
        fixes.append(Fix(0.15 * shown, "The task is not stated.", cue=Cue.TASK))
        fixes.append(Fix(0.05 * shown, "Slips go unnoticed.", cue=Cue.VERIFY))
        fixes.append(Fix(0.03 * shown, "No role is given.", cue=Cue.ROLE))
    if sight.wants_shorter:
        fixes.append(Fix(3.0, TOO_LONG, cue=Cue.CONCISE))
    fixes = [fix for fix in fixes if fix.cue is None or fix.cue not in has.cues]
    here = _meanings(Shown(texts))
    fixes += [
        Fix(RECOMMENDED, "Good prompts say this.", sentence=words)
        for words in sight.patterns
        if not _meanings(Shown({"system": words})).keys() <= here.keys() and not _BRACES.search(words)
    ]
    return [fix for fix in (*fixes, *_contrasts(sight, whole)) if fix.weight > 0]


def critique(sight: Sight, stream: Stream, rank: int | None = None) -> str:
    """A sentence on what goes wrong: the strongest evidence, or that of a rank; a weighted draw without one."""
    fixes = [fix for fix in find_fixes(sight, sight.prompts[0].texts if sight.prompts else {}) if not fix.sentence]
    if not fixes:
        return TOO_LONG if sight.wants_shorter else NOTHING_WRONG
    if rank is not None:
        ranked = sorted(fixes, key=lambda fix: (-fix.weight, fix.why))
        return ranked[min(rank, len(ranked) - 1)].why
    return stream.pick_weighted(fixes, [fix.weight for fix in fixes]).why


def cases_of(sight: Sight, why: str) -> list[Case]:
    """The failures that show what a critique says; of kinds of failure found earlier, those that say the same."""
    if not sight.failures:
        return [mode for mode in sight.modes if why in mode.reason]
    skill = next((skill for skill in SKILLS if why in skill.hints), None)
    if skill:
        return [case for case in sight.failures if skill.pattern.search(f"{case.answer} {case.reason}".lower())]
    if why in COMPLAINTS.values() and sight.form:
        return [case for case in sight.failures if is_misformed(sight.form, case)]
    if why == NO_REASONING:
        return [case for case in sight.failures if len(case.answer.strip().splitlines()) <= 1]
    return list(sight.failures[:1])  # advice that is always good: no case speaks for it more than another


def fresh_prompt(sight: Sight, roles: Sequence[str], stream: Stream) -> Texts:
    """A prompt written from the examples alone: a task statement, most often a format, and the placeholders."""
    form = sight.form or Form.SHORT
    said = [stream.pick(TASK[form])]
    if sight.form and stream.chance(0.7):
        said.append(stream.pick(FORMAT[form]))
    if stream.chance(0.3):
        said.append(stream.pick(GENERAL[Cue.COT]))
    shown = dict(_base(sight).texts) if sight.prompts else {}
    inputs = "\n".join(f"{column[1:-1].replace('_', ' ').capitalize()}: {column}" for column in sight.columns)
    texts = dict.fromkeys(roles, "") or {"system": ""}
    instructions = " ".join(said)
    home = "system" if "system" in texts else next(iter(texts))
    texts[home] = instructions
    if home != "user" and "user" in texts:
        texts["user"] = shown.get("user") or inputs
    elif home == "user":
        texts["user"] = f"{instructions}\n\n{inputs}".rstrip()
    if missing := [c for c in _BRACES.findall(shown.get(home, "")) if c not in texts[home]]:
        texts[home] += "\n\n" + "\n".join(missing)
    if "output" in texts:
        texts["output"] = "\n".join(_BRACES.findall(shown.get("output", "")))
    return texts


def apply(texts: Mapping[str, str], edit: Edit) -> Texts:
    """The texts after one edit."""
    old = texts.get(edit.target, "")
    if edit.op == "insert_after":
        if not edit.find:
            new = f"{old.rstrip()} {edit.text}" if old.strip() else edit.text
        else:
            new = old.replace(edit.find, f"{edit.find} {edit.text}", 1)
    elif edit.op == "replace":
        new = old.replace(edit.find, edit.text, 1)
    else:
        new = re.sub(r"[ \t]{2,}", " ", old.replace(edit.find, "", 1))
        new = re.sub(r"\n{3,}", "\n\n", re.sub(r" *\n *", "\n", new)).strip()
    return {**texts, edit.target: new}


def paraphrase(sentence: str, stream: Stream, form: Form | None) -> str:
    """The same in other words: another phrasing of a known sentence, or its synonyms."""
    reading = read_sentence(sentence)
    known = _other_phrasings(reading, form) if len(sentence.split()) <= 14 else ()
    others = [other for other in known if other != sentence]
    if others and stream.chance(0.8):
        return stream.pick(others)
    words = [word for word in SYNONYMS if re.search(rf"\b{word}\b", sentence)]
    if words and stream.chance(0.5):
        word = stream.pick(words)
        changed = re.sub(rf"\b{word}\b", SYNONYMS[word], sentence, count=1)
        if read_sentence(changed) == reading:
            return changed
    opening, ending = stream.pick(OPENINGS), stream.pick(ENDINGS)
    changed = sentence
    if not sentence.startswith((*(word.split(" ")[0] for word in OPENINGS), "I ")):
        changed = f"{opening} {sentence[0].lower()}{sentence[1:]}"
    if changed.endswith(".") and not changed.endswith(tuple(f"{end}." for end in ENDINGS)):
        changed = f"{changed[:-1]} {ending}."
    return changed if read_sentence(changed) == reading else sentence


# --------------------------------------------------------------------------- choosing what to do


def _base(sight: Sight) -> Shown:
    """The prompt to edit: the first, unless it is gibberish and a better one is shown."""
    first = sight.prompts[0]
    if len(sight.prompts) > 1 and is_gibberish("\n".join(first.texts.values())):
        return max(sight.prompts, key=lambda shown: shown.score or 0.0)
    return first


def _how_many(sight: Sight, stream: Stream) -> int:
    if sight.wants_big or sight.is_guess:
        return BIG_EDITS
    count = 1
    while count < MAX_EDITS and stream.chance(MORE_EDITS):
        count += 1
    return count


def _edit_for(fix: Fix, sight: Sight, texts: Texts, editable: Sequence[str], stream: Stream) -> Edit | None:
    if fix.drop:
        homes = [role for role in editable if fix.drop in texts.get(role, "")]
        if not homes or _BRACES.search(fix.drop):
            return None
        return Edit(homes[0], "delete", fix.drop, "", fix.why)
    return _insert(fix.phrasing(sight, stream), fix.why, texts, editable, last=fix.form is not None)


def _insert(sentence: str, why: str, texts: Texts, editable: Sequence[str], *, last: bool = False) -> Edit:
    """Adds a sentence: a format instruction goes where the answer begins, everything else goes first."""
    order = ("output", "system", "user") if last else ("system", "output", "user")
    target = next((role for role in order if role in editable), editable[0])
    old = texts.get(target, "")
    plain = [s for s in _plain_sentences(old) if old.count(s) == 1]
    if target == "user":
        op, text = ("replace", f"{sentence}\n\n{old}") if old else ("insert_after", sentence)
        return Edit(target, op, old, text, why)
    return Edit(target, "insert_after", plain[-1] if plain else "", sentence, why)


def _blind_edit(sight: Sight, texts: Texts, editable: Sequence[str], stream: Stream) -> Edit | None:
    """A random edit: paraphrase, drop, add what does not matter, lengthen, or try some general advice."""
    places = [(role, s) for role in editable for s in _plain_sentences(texts.get(role, ""))]
    if sight.is_paraphrase and places and stream.chance(PARAPHRASE_ONLY):
        role, sentence = stream.pick(places)
        return Edit(role, "replace", sentence, paraphrase(sentence, stream, sight.form), "Other words for the same.")
    if not sight.is_paraphrase and stream.chance(BLIND_CUE):
        return _insert(_advice(stream), "A piece of general advice.", texts, editable)
    kind = stream.pick_weighted(("paraphrase", "drop", "add", "lengthen"), (0.45, 0.2, 0.25, 0.1))
    if kind == "lengthen":
        return _insert(stream.pick(PADDING), "Said at greater length.", texts, editable)
    if kind == "add" or not places:
        return _insert(stream.pick(IRRELEVANT), "A word on the setting.", texts, editable)
    role, sentence = stream.pick(places)
    if kind == "drop" and len(places) > 1:
        return Edit(role, "delete", sentence, "", "This seemed dispensable.")
    return Edit(role, "replace", sentence, paraphrase(sentence, stream, sight.form), "Other words for the same.")


def _advice(stream: Stream) -> str:
    """Any cue or rule of the lexicon: most rules are of no use to a given task, and most formats are the wrong one."""
    group = stream.pick(("general", "skill", "format"))
    if group == "skill":
        return stream.pick(stream.pick(SKILLS).rules)
    if group == "format":
        return stream.pick(FORMAT[stream.pick(tuple(Form))])
    return stream.pick(GENERAL[stream.pick((Cue.COT, Cue.VERIFY, Cue.ROLE, Cue.CONCISE))])


def _contrasts(sight: Sight, whole: str) -> list[Fix]:
    """Sentences that set better prompts apart from worse ones; needs scores of two prompts at least."""
    scored = [(shown.score, _meanings(shown)) for shown in sight.prompts if shown.score is not None]
    if len(scored) < 2:
        return []
    here = _meanings(Shown({"system": whole}))
    fixes = []
    known: dict[str, str] = {}
    for _, meanings in scored:
        known.update(meanings)
    for meaning, sentence in known.items():
        having = [score for score, meanings in scored if meaning in meanings and score is not None]
        lacking = [score for score, meanings in scored if meaning not in meanings and score is not None]
        if not having or not lacking or _BRACES.search(sentence):
            continue
        gain = sum(having) / len(having) - sum(lacking) / len(lacking)
        if gain > 0 and meaning not in here:
            fixes.append(Fix(10 * gain, "Better prompts say this.", sentence=sentence))
        elif gain < 0 and meaning in here:
            fixes.append(Fix(-10 * gain, "Worse prompts say this.", drop=here[meaning]))
    return fixes


def shared(sight: Sight) -> list[str]:
    """Sentences of the shown prompts, those first whose prompts score best, and of these the commonest."""
    sentences_of: dict[str, str] = {}
    scores: dict[str, list[float]] = {}
    for shown in sight.prompts:
        for meaning, sentence in _meanings(shown).items():
            if not _BRACES.search(sentence):
                sentences_of[meaning] = sentence
                scores.setdefault(meaning, []).append(shown.score or 0.0)
    ranked = sorted(scores, key=lambda meaning: (-sum(scores[meaning]) / len(scores[meaning]), -len(scores[meaning])))
    return [sentences_of[meaning] for meaning in ranked]


def _meanings(shown: Shown) -> dict[str, str]:
    """The sentences of a prompt by what they say, so that paraphrases count as one."""
    found: dict[str, str] = {}
    for text in shown.texts.values():
        for sentence in sentences(text):
            reading = read_sentence(sentence)
            parts = sorted((*reading.formats, *reading.cues, *reading.skills))
            found[" ".join(parts) if parts else sentence.lower()] = sentence
    return found


def _cross(sight: Sight, stream: Stream) -> Texts:
    """The first prompt with some of the sentences that only the second has."""
    first, second = dict(sight.prompts[0].texts), sight.prompts[1].texts
    for role, text in second.items():
        mine = first.get(role, "").lower()
        for sentence in _plain_sentences(text):
            if sentence.lower() not in mine and stream.chance(0.5):
                first = apply(first, _insert(sentence, "From the other parent.", first, [role]))
    return first


def _plain_sentences(text: str) -> list[str]:
    """The sentences on lines without placeholders that hold at least two words."""
    lines = [line for line in text.split("\n") if not _BRACES.search(line)]
    return [sentence for line in lines for sentence in sentences(line) if len(sentence.split()) > 1]


def _other_phrasings(reading: Reading, form: Form | None) -> tuple[str, ...]:
    """Other sentences that say exactly the same, where one thing is said."""
    if reading.count != 1:
        return ()
    if reading.skills:
        return _BY_NAME[next(iter(reading.skills))].rules
    if reading.formats:
        one = next(iter(reading.formats))
        return FORMAT[one] if len(reading.formats) == 1 else ()
    cue = next(iter(reading.cues))
    if cue is Cue.TASK:
        return TASK[form] if form else ()
    return GENERAL[cue]
