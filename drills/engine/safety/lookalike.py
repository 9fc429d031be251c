"""Which names a tired person could take for each other. Pure; used by ``refusals``.

Two names look alike when they are made of the same shapes (``skeleton``), when at most ``DISTANCE`` letters differ, or
when one begins with the whole of the other. The outage began with an operation on a cluster that was not meant.
"""

from __future__ import annotations

import unicodedata
from typing import Final

DISTANCE: Final = 2

_ONE: Final = {
    ord(letter): shape
    for letters, shapes in (
        ("0125689|!iı", "olzsbbgllll"),
        ("авсеԁһіјкӏмнорԛѕтуѵԝхьпг", "abcedhljklmhopqstyvwxbnr"),  # Cyrillic
        ("αβγεηικνορστυχω", "abyenlkvopotuxw"),  # Greek
        ("օոսհյցզգաք", "onuhjgqqwp"),  # Armenian
        ("ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢɡ", "abcdefghljklmnoprstuvwyzg"),  # small capitals, script g
    )
    for letter, shape in zip(letters, shapes, strict=True)
}
"""Digits and marks, then small letters of other alphabets, to the small Latin letter that they look like."""

_MANY: Final = (("rn", "m"), ("vv", "w"), ("cl", "d"))


def skeleton(name: str) -> str:
    """The name's shapes: what is left when letters that look alike are one letter, and invisible ones are none.

    Compatibility forms, accents and case are folded by ``unicodedata``; every dash, dot, low line or space is ``-``.
    """
    plain = unicodedata.normalize("NFKD", name)
    seen = "".join(_shape(letter) for letter in plain if unicodedata.category(letter) not in ("Mn", "Me", "Cf", "Cc"))
    shapes = seen.casefold().translate(_ONE)
    for pair, letter in _MANY:
        shapes = shapes.replace(pair, letter)
    return shapes


def edit_distance(one: str, other: str) -> int:
    """Levenshtein distance: insertions, deletions and changes that turn one word into the other."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        previous, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (a != b))
    return row[-1]


def look_alike(one: str, other: str) -> str:
    """Why the two different names could be confused; "" when nobody would."""
    if one == other:
        return ""
    mine, theirs = skeleton(one), skeleton(other)
    if mine == theirs:
        return "the same shapes: letters that look alike"
    if one.startswith(other) or other.startswith(one) or mine.startswith(theirs) or theirs.startswith(mine):
        return "one begins with the other"
    if (distance := min(edit_distance(one, other), edit_distance(mine, theirs))) <= DISTANCE:
        return f"{distance} letter{'s' * (distance != 1)} apart"
    return ""


def strange_letters(name: str) -> str:
    """Letters beyond ASCII by their Unicode names, for a message; "" when there are none."""
    strange = [letter for letter in dict.fromkeys(name) if not letter.isascii()]
    return ", ".join(unicodedata.name(letter, f"U+{ord(letter):04X}") for letter in strange)


def _shape(letter: str) -> str:
    return "-" if unicodedata.category(letter) in ("Pd", "Pc", "Zs") or letter == "." else letter
