"""How an answer announces itself: `Answer: B`, `the correct answer is **B**`, `<answer>B</answer>`, `\\boxed{B}`.

Option letters and labels are read with the same phrases, so that a prompt that works on one dataset works on the other.
Only the phrase is owned here; what may follow it is said by the metric. Every repetition is bounded, so that a
degenerate answer (ten thousand line breaks) is read in linear time.
"""

from __future__ import annotations

_NOUN = r"(?:answer|choice|option|label|verdict|classification|category|prediction|judge?ment|conclusion)"
_ABOUT = r"(?:\s{1,4}(?:to|for|of)\s[^.:;?!\n]{1,80}?)?"  # "the answer to the question is B"
_VERB = r"(?:[\s*_`]{0,8}[:=]{1,2}|\s{1,4}(?:is|would be|should be|must be)\b\s{0,4}:?)"
_HEDGE = r"(?:(?:either|probably|likely|most likely|clearly|therefore|thus|option|choice|letter|label)\s{1,4}){0,3}"
OPENING = r"[\s*_`\"'“‘(\[{$]{0,12}+"  # emphasis, quotes and brackets in front of the answer proper

# a regular expression; matched without regard to case
ANNOUNCEMENT = rf"(?:\b{_NOUN}\b{_ABOUT}{_VERB}|<answer>|\\boxed\s*\{{(?:\\text\s*\{{)?){OPENING}{_HEDGE}{OPENING}"
