"""The word list of the built-in models: every token is one word.

Four hundred tokens are enough for sentences about people, places, animals and numbers, and few
enough for a model of a hundred thousand weights to tell apart. Order is part of the models:
a word's place is its token id.
"""

from __future__ import annotations

BOS, UNK, PAD, EOS = "<bos>", "<unk>", "<pad>", "<eos>"
SPECIALS: tuple[str, ...] = (BOS, UNK, PAD, EOS)


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split())


PUNCTUATION = _split(". , ? ! : ; ' -")

INVENTED_NAMES = _split(
    """
    Blorvek Quimzat Trevask Woombly Zarnip Fliggen Druvell Sporling Krandle Mibbet Jostrel
    Vexolin Tarquol Plindar Grennick Hobbix Snavort Yundle Crombix Ploov Wexnor Dribnal
    Zoltrap Munkeval Frinzle Obberly Tisquin Gavrok Luzzam Skeffin Brantiv Chozzle Nurvane
    Pimbrek Rulkast Eggrun Vombast Iskell Dworfin Haxlop
    """
)
"""Names that no text contains, so that no model can have learned what follows them."""

NAMES = _split(
    """
    Harry Potter Hermione Granger Ron Weasley Mary John Anna Peter Tom Lucy James Sarah Paul
    Emma David Alice Jack Kate Smith Brown Baker Miller Taylor Walker Cooper Fisher Hill
    Stone
    """
)
"""First and family names."""

LETTERS = _split("A B C D E F G H")

NOUNS = _split(
    """
    cat mat dog bird fish horse cow sheep mouse fox bear wolf lion frog duck man woman boy
    girl child king queen doctor teacher farmer sailor friend brother sister mother father
    uncle house garden school river bridge forest mountain village city market church
    station shop kitchen room door window table chair bed box book letter lamp key boat
    train car cup plate hat coat shoe ring apple bread cheese cake soup milk tea water egg
    tree flower sun moon star sky rain snow wind road hand eye head voice name word story
    song day night morning evening week year animal colour food number place ball coin ship
    island field farm wall fire fruit people
    """
)

VERBS = _split(
    """
    is was are were be has had have said saw met went came ran sat stood walked talked asked
    told gave took found lost made bought sold ate drank played sang read wrote opened
    closed called helped followed loved liked knew thought wanted looked lived left waited
    carried brought likes lives sees can will would
    """
)

ADJECTIVES = _split(
    """
    big small old young new good bad happy sad tall short hot cold warm dark bright quick
    slow quiet loud rich poor kind brave red blue green yellow black white grey pink purple
    orange
    """
)

FUNCTION_WORDS = _split(
    """
    the The a an and or but not no yes of in on at to from with by for under over near
    behind into out up down after before then when while because if that this there here he
    she it they He She It They his her their who what where very too again always never also
    only as so Then After One Mr Mrs my your first second next last every same Now Here
    """
)

NUMBERS = _split("one two three four five six seven eight nine ten eleven twelve")

DAYS = _split("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")

MONTHS = _split(
    """
    January February March April May June July August September October November December
    """
)

WORDS: tuple[str, ...] = (
    SPECIALS
    + PUNCTUATION
    + INVENTED_NAMES
    + NAMES
    + LETTERS
    + NOUNS
    + VERBS
    + ADJECTIVES
    + FUNCTION_WORDS
    + NUMBERS
    + DAYS
    + MONTHS
)
"""Every token, specials first; the index is the token id."""
