"""Write the data set of the quickstart recipe: plain-language orders and their JSON.

Every row is a chat in the OpenAI layout: a short system message, a user who orders
something in ordinary English, and an assistant who answers with one line of JSON::

    user:      Could you send a dozen blue mugs to Ana Ruiz in Lisbon by Friday? Thanks!
    assistant: {"customer": "Ana Ruiz", "item": "blue mug", "quantity": 12,
                "city": "Lisbon", "day": "Friday", "gift": false}

The answer has six keys in a fixed order. ``quantity`` is a number even where the order
says "a pair of", ``item`` is in the singular, ``day`` is null where the order names no
day, and ``gift`` says whether it has to be wrapped.

The held-out rows share no customer, item or city with the training rows, not even a
single word of one, and half of them use phrasings that no training row uses. A model
that gets them right has learnt the task rather than the words. Numbers and week days
are values, so both parts draw on all of them.

The words and phrasings were written for this project and the customers are invented.
The output depends on nothing but this file: a second run writes the same bytes.

Usage: ``python scripts/make_orders.py [FOLDER]``
"""

import json
import random
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

SEED = 20
TRAIN_ROWS = 600
TEST_ROWS = 64
DEFAULT_FOLDER = Path(__file__).resolve().parent.parent / "recipes" / "data" / "orders"

SYSTEM_MESSAGE = "Turn the order into JSON."

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@dataclass(frozen=True)
class Words:
    """The entities that one part of the data set may name."""

    given_names: tuple[str, ...]
    family_names: tuple[str, ...]
    adjectives: tuple[str, ...]
    nouns: tuple[str, ...]
    cities: tuple[str, ...]

    def all_words(self) -> set[str]:
        """Every single word of every entity, in lower case."""
        lists = (self.given_names, self.family_names, self.adjectives, self.nouns, self.cities)
        return {word.lower() for names in lists for name in names for word in name.split()}


@dataclass(frozen=True)
class Order:
    """What the assistant has to read out of an order; the fields are the JSON's keys."""

    customer: str
    item: str
    quantity: int
    city: str
    day: str | None
    gift: bool


TRAIN_WORDS = Words(
    given_names=(
        "Ana", "Bruno", "Carla", "Dmitri", "Elena", "Farid", "Greta", "Hassan", "Ines",
        "Jonas", "Keiko", "Laszlo", "Mina", "Nadia", "Oscar", "Priya", "Quentin", "Rosa",
        "Stefan", "Tomas", "Uma", "Viktor", "Wanda", "Xavier", "Yusuf", "Zofia", "Adele",
        "Boris", "Celeste", "Dalia", "Emil", "Fiona", "Gustav", "Helga", "Ivan", "Joyce",
        "Kwame", "Louise", "Marco", "Nuria", "Olaf", "Paula", "Rashid", "Simone", "Thabo",
        "Ulrike", "Vera", "Walter", "Yvonne", "Zain",
    ),
    family_names=(
        "Ruiz", "Almeida", "Becker", "Castellano", "Dvorak", "Eriksen", "Fontaine", "Gupta",
        "Horvath", "Ibrahim", "Jansen", "Kowalski", "Laurent", "Mensah", "Nakamura", "Okafor",
        "Petrov", "Quiroga", "Rahman", "Schmidt", "Tanaka", "Urbina", "Varga", "Weber",
        "Yilmaz", "Zimmer", "Andersson", "Bianchi", "Chaudhry", "Delgado", "Farkas", "Grimaldi",
        "Hughes", "Iyer", "Johansen", "Kaplan", "Lombardi", "Murphy", "Novak", "Ortega",
        "Papadakis", "Rossi", "Sandoval", "Takahashi", "Vogel", "Wallace", "Zapata", "Osei",
    ),
    adjectives=(
        "blue", "red", "white", "grey", "small", "striped", "plain", "cream", "orange",
        "medium", "checked", "purple", "dark brown", "pale turquoise",
    ),
    nouns=(
        "mug", "bowl", "tray", "blanket", "cushion", "basket", "vase", "candle", "notebook",
        "desk lamp", "tea towel", "picture frame", "storage box", "hairbrush", "wristwatch",
        "diary", "umbrella", "apron", "backpack", "wall clock", "doormat", "pencil case",
        "lunch bag", "napkin", "salad dish", "armchair", "egg cup", "wine glass", "bookend",
        "key ring", "bath mat", "oven glove", "toy lorry", "side table", "coat hook", "ladle",
        "bench", "nightlight", "photo album", "jug",
    ),
    cities=(
        "Lisbon", "Oslo", "Cape Town", "Krakow", "Valencia", "Osaka", "Lagos", "Denver",
        "Hamburg", "Toronto", "Istanbul", "Bogota", "Geneva", "Nairobi", "Auckland", "Prague",
        "Marseille", "Lahore", "Santa Fe", "Dublin", "Tbilisi", "Mumbai", "Antwerp", "Seoul",
        "Casablanca", "Porto", "Salt Lake City", "Helsinki", "Manila", "Montevideo",
        "Thessaloniki", "Bristol", "Kigali", "Rotterdam", "Phoenix", "Zagreb",
    ),
)  # fmt: skip

TEST_WORDS = Words(
    given_names=(
        "Amara", "Benedikt", "Chloe", "Diego", "Esther", "Felix", "Giulia", "Hiroshi",
        "Isabel", "Jamal", "Katrin", "Leon", "Miriam", "Nikolai", "Olivia", "Pedro", "Ruth",
        "Sven", "Tamara", "Umberto", "Valerie", "Wilfred", "Yasmin", "Zoltan",
    ),
    family_names=(
        "Abadi", "Brandt", "Cardoso", "Dahl", "Espinoza", "Fischer", "Gallo", "Haddad",
        "Ivanova", "Jimenez", "Keller", "Lindqvist", "Moreau", "Nguyen", "Oliveira", "Park",
        "Reyes", "Silva", "Thompson", "Ueda", "Vasquez", "Winter", "Yamamoto", "Zhou",
    ),
    adjectives=("green", "black", "large", "spotted", "yellow", "pink", "beige", "light violet"),
    nouns=(
        "plate", "pillow", "teapot", "scarf rack", "lantern", "mirror", "suitcase",
        "garden chair", "bread bin", "wallet", "toothbrush", "jewellery tin", "candy jar",
        "paintbrush", "mailbox", "kettle", "rug", "cake stand", "flower pot", "bucket",
        "sketch pad", "coaster", "stool", "water bottle",
    ),
    cities=(
        "Madrid", "Bergen", "San Diego", "Vienna", "Kyoto", "Accra", "Chicago", "Munich",
        "Montreal", "Ankara", "Lima", "Basel", "Kampala", "Wellington", "Budapest", "Lyon",
        "Karachi", "New Orleans", "Galway", "Yerevan",
    ),
)  # fmt: skip

# {goods}, {name} and {city} are always filled; {day} becomes " by Friday" or nothing.
# A phrasing starts in lower case where a greeting with a comma may come before it.
TRAIN_PHRASINGS = (
    "could you send {goods} to {name} in {city}{day}?",
    "please ship {goods} to {name}, {city}{day}.",
    "{name} in {city} would like {goods}{day}.",
    "I'd like to order {goods} for {name} in {city}{day}.",
    "we need {goods} in {city}{day}. The customer is {name}.",
    "new order from {name}: {goods}, to be delivered in {city}{day}.",
    "my name is {name} and I live in {city}. I would like {goods}{day}, please.",
    "can you get {goods} to {name} in {city}{day}?",
    "{goods} for {name}, please. The parcel goes to {city}{day}.",
    "this is {name} from {city}. Can I have {goods}{day}?",
    "{name} just called from {city} and wants {goods}{day}.",
    "please put {name} in {city} down for {goods}{day}.",
    "I am writing on behalf of {name}, who needs {goods}{day}. The address is in {city}.",
    "the shop in {city} is asking for {goods}{day}. The contact there is {name}.",
    "would it be possible to deliver {goods} to {city}{day}? It is for {name}.",
    "my neighbour {name} is moving to {city} and has asked for {goods}{day}.",
    "I want to buy {goods}{day}. Send everything to {name} in {city}.",
    "for {name} in {city}: {goods}{day}.",
    "from our {city} office, {name} requests {goods}{day}.",
    "how soon can you send {goods} to {city}? {name} is hoping for a delivery{day}.",
    "{city} customer {name} has ordered {goods}{day}.",
    "{name} here. I need {goods} sent to my flat in {city}{day}.",
    "we have run out again, so please send {goods} to {city}{day}, care of {name}.",
    "is there any chance that {name} could receive {goods}{day}? The delivery is to {city}.",
)

TEST_PHRASINGS = (
    "please arrange for {goods} to go out to {name} in {city}{day}.",
    "a quick request from {city}: {name} is looking for {goods}{day}.",
    "I was told that you sell these, so {goods} for {name} in {city}{day}, please.",
    "deliver {goods} to {city}{day} and make the invoice out to {name}.",
    "{name} lives in {city} and is after {goods}{day}.",
    "may I order {goods}{day}? The name is {name} and the city is {city}.",
    "my cousin {name} in {city} would be delighted with {goods}{day}.",
    "our customer {name} has asked us to bring {goods} to {city}{day}.",
)

DAY_CLAUSES = (" by {day}", " on {day}", " this {day}", " no later than {day}", " by next {day}")
DAY_SENTENCES = (
    "It should arrive by {day}.",
    "{day} would be perfect.",
    "Delivery on {day}, please.",
    "We need it by {day} at the latest.",
)
NO_DAY_SENTENCES = ("There is no rush.", "Any day is fine.", "Whenever it suits you.")
GIFT_SENTENCES = (
    "This is a gift.",
    "Please gift-wrap the order.",
    "Gift wrap, please.",
    "It is for a birthday, so please wrap it up nicely.",
)
NO_GIFT_SENTENCES = ("No gift wrap needed.", "This is not a gift.")
GREETINGS = ("Hi,", "Hello,", "Good morning,", "Hi there,", "Good afternoon,")
CLOSINGS = ("Thanks!", "Thank you.", "Many thanks.", "Thanks in advance.", "Best wishes.")

NUMBER_WORDS = (
    "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen",
)  # fmt: skip
COUNT_PHRASES = {
    "a pair of": 2,
    "a couple of": 2,
    "half a dozen": 6,
    "a dozen": 12,
    "two dozen": 24,
    "three dozen": 36,
}


def plural(item: str) -> str:
    """The plural of an item, by the regular rules of spelling."""
    if item.endswith(("s", "x", "ch", "sh")):
        return item + "es"
    if item.endswith("y") and item[-2] not in "aeiou":
        return item[:-1] + "ies"
    return item + "s"


def with_article(item: str) -> str:
    """The item after "a" or "an"."""
    return f"an {item}" if item[0] in "aeiou" else f"a {item}"


def make_item(rng: random.Random, words: Words) -> str:
    """An item in the singular, such as "desk lamp" or "blue desk lamp"."""
    noun = rng.choice(words.nouns)
    return f"{rng.choice(words.adjectives)} {noun}" if rng.random() < 0.7 else noun


def make_goods(rng: random.Random, item: str) -> tuple[str, int]:
    """How an order may ask for some number of an item, and the number."""
    kind = rng.choices(("one", "word", "phrase", "digits"), weights=(2, 5, 4, 4))[0]
    if kind == "one":
        return rng.choice((with_article(item), f"one {item}")), 1
    if kind == "word":
        index = rng.randrange(len(NUMBER_WORDS))
        return f"{NUMBER_WORDS[index]} {plural(item)}", index + 2
    if kind == "phrase":
        phrase, quantity = rng.choice(tuple(COUNT_PHRASES.items()))
        return f"{phrase} {plural(item)}", quantity
    quantity = rng.randint(2, 60)
    return f"{quantity} {plural(item)}", quantity


def sentence_case(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[0].upper() + text[1:]


def make_order(rng: random.Random, words: Words, phrasings: Sequence[str]) -> tuple[str, Order]:
    """One order as a customer would write it, and what it says."""
    item = make_item(rng, words)
    goods, quantity = make_goods(rng, item)
    order = Order(
        customer=f"{rng.choice(words.given_names)} {rng.choice(words.family_names)}",
        item=item,
        quantity=quantity,
        city=rng.choice(words.cities),
        day=rng.choice(DAYS) if rng.random() < 0.7 else None,
        gift=rng.random() < 0.35,
    )
    day_in_clause = order.day is not None and rng.random() < 0.7
    body = rng.choice(phrasings).format(
        goods=goods,
        name=order.customer,
        city=order.city,
        day=rng.choice(DAY_CLAUSES).format(day=order.day) if day_in_clause else "",
    )
    greeting = rng.choice(GREETINGS) if rng.random() < 0.4 else ""
    parts = [f"{greeting} {body}" if greeting else sentence_case(body)]
    if order.day is None and rng.random() < 0.4:
        parts.append(rng.choice(NO_DAY_SENTENCES))
    elif order.day is not None and not day_in_clause:
        parts.append(rng.choice(DAY_SENTENCES).format(day=order.day))
    if order.gift:
        parts.append(rng.choice(GIFT_SENTENCES))
    elif rng.random() < 0.2:
        parts.append(rng.choice(NO_GIFT_SENTENCES))
    if rng.random() < 0.4:
        parts.append(rng.choice(CLOSINGS))
    return " ".join(parts), order


def make_row(text: str, order: Order) -> str:
    """One line of the file: the chat as JSON."""
    messages = [
        {"role": "system", "content": SYSTEM_MESSAGE},
        {"role": "user", "content": text},
        {"role": "assistant", "content": json.dumps(asdict(order))},
    ]
    return json.dumps({"messages": messages})


def make_rows(
    rng: random.Random, words: Words, phrasing_groups: Sequence[Sequence[str]], count: int
) -> list[str]:
    """Different rows that take their phrasings from each group in turn."""
    rows: dict[str, None] = {}
    while len(rows) < count:
        phrasings = phrasing_groups[len(rows) % len(phrasing_groups)]
        rows[make_row(*make_order(rng, words, phrasings))] = None
    return list(rows)


def check_disjoint() -> None:
    """Stop where the two parts have a word of an entity or a phrasing in common."""
    shared = TRAIN_WORDS.all_words() & TEST_WORDS.all_words()
    assert not shared, f"in both parts: {sorted(shared)}"
    assert not set(TRAIN_PHRASINGS) & set(TEST_PHRASINGS)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines with the same line ends on every system."""
    path.write_bytes("".join(f"{line}\n" for line in lines).encode("ascii"))


def main(folder: Path) -> None:
    """Write train.jsonl and test.jsonl to the folder."""
    check_disjoint()
    folder.mkdir(parents=True, exist_ok=True)
    train = make_rows(random.Random(SEED), TRAIN_WORDS, [TRAIN_PHRASINGS], TRAIN_ROWS)
    # By turns a phrasing that the training rows use and one that they do not.
    groups = [TRAIN_PHRASINGS, TEST_PHRASINGS]
    test = make_rows(random.Random(SEED + 1), TEST_WORDS, groups, TEST_ROWS)
    write_lines(folder / "train.jsonl", train)
    write_lines(folder / "test.jsonl", test)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_FOLDER)
