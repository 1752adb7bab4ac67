"""Write the data set of the quickstart recipe: plain-language orders and their JSON.

Every row is a chat in the OpenAI layout: a short system message, a user who orders
something in ordinary English, and an assistant who answers with one line of JSON::

    user:      Could you send a dozen blue mugs to Ana Ruiz in Lisbon by Friday? Thanks!
    assistant: {"item": "blue mug", "quantity": 12, "city": "Lisbon",
                "customer": "Ana Ruiz", "day": "Friday"}

The answer has five keys in a fixed order. ``quantity`` is a number even where the order
says "a pair of", ``item`` is in the singular, and ``day`` is null where the order names
no day.

The held-out rows share no customer, item or city with the training rows, not even a
single word of one, and half of them use phrasings that no training row uses. A model
that gets them right has learnt the task rather than the words. Numbers and week days
are values, so both parts draw on all of them. A held-out name, item or city starts with
a word that SmolLM2's tokenizer splits alike after a space, as in the order, and after a
quotation mark, as in the JSON; to spell the other words in new pieces is what so small a
model still gets wrong after a few minutes of training.

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
TRAIN_ROWS = 288
TEST_ROWS = 64
DEFAULT_FOLDER = Path(__file__).resolve().parent.parent / "recipes" / "data" / "orders"

SYSTEM_MESSAGE = "Turn the order into JSON."

# How often an order has each optional part.
ADJECTIVE_SHARE = 0.7
DAY_SHARE = 0.7
DAY_CLAUSE_SHARE = 0.7
NO_DAY_SHARE = 0.4
GREETING_SHARE = 0.3
CLOSING_SHARE = 0.3

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
        """Return every single word of every entity, in lower case."""
        lists = (self.given_names, self.family_names, self.adjectives, self.nouns, self.cities)
        return {word.lower() for names in lists for name in names for word in name.split()}


@dataclass(frozen=True)
class Order:
    """What the assistant has to read out of an order; the fields are the JSON's keys."""

    item: str
    quantity: int
    city: str
    customer: str
    day: str | None


TRAIN_WORDS = Words(
    given_names=(
        "Ana", "Bruno", "Carla", "Dmitri", "Elena", "Farid", "Greta", "Hassan", "Ines", "Jonas",
        "Keiko", "Laszlo", "Mina", "Nadia", "Oscar", "Priya", "Quentin", "Rosa", "Stefan",
        "Tomas", "Uma", "Viktor", "Wanda", "Xavier", "Yusuf", "Zofia", "Adele", "Boris",
        "Celeste", "Dalia", "Emil", "Fiona", "Gustav", "Helga", "Ivan", "Joyce", "Kwame",
        "Louise", "Marco", "Nuria", "Olaf", "Paula", "Rashid", "Simone", "Thabo", "Ulrike",
        "Vera", "Walter", "Yvonne", "Zain", "Agnes", "Bilal", "Cecilia", "Dennis", "Edith",
        "Francis", "Gloria", "Harold", "Ingrid", "Julian", "Karim", "Lydia", "Magnus", "Noor",
        "Owen", "Petra", "Ramon", "Sylvia", "Theo", "Ursula", "Vincent", "Wendy", "Yara",
        "Arthur", "Beatrice", "Conrad", "Dora", "Ernesto", "Frida", "Georgia", "Hugo", "Irene",
        "Joel", "Kamila", "Lorenzo", "Monica", "Nils", "Ophelia", "Patrick", "Rachel", "Samuel",
        "Teresa", "Victoria", "Wesley", "Ahmed", "Brigitte", "Clara", "Duncan", "Eva", "Fatima",
        "Gordon", "Hannah", "Isaac", "Judith", "Klaus", "Laura", "Malik", "Naomi",
    ),
    family_names=(
        "Ruiz", "Almeida", "Becker", "Castellano", "Dvorak", "Eriksen", "Fontaine", "Gupta",
        "Horvath", "Ibrahim", "Jansen", "Kowalski", "Laurent", "Mensah", "Nakamura", "Okafor",
        "Petrov", "Quiroga", "Rahman", "Schmidt", "Tanaka", "Urbina", "Varga", "Weber", "Yilmaz",
        "Zimmer", "Andersson", "Bianchi", "Chaudhry", "Delgado", "Farkas", "Grimaldi", "Hughes",
        "Iyer", "Johansen", "Kaplan", "Lombardi", "Murphy", "Novak", "Ortega", "Papadakis",
        "Rossi", "Sandoval", "Takahashi", "Vogel", "Wallace", "Zapata", "Osei", "Adams", "Barros",
        "Carter", "Duarte", "Ellis", "Fernandes", "Griffin", "Herrera", "Ismail", "Jackson",
        "Khan", "Larsen", "Mendoza", "Nielsen", "Osborne", "Patel", "Quinn", "Ramirez", "Santos",
        "Torres", "Usman", "Vega", "Watanabe", "Young", "Zhang", "Aguilar", "Bennett", "Chen",
        "Doyle", "Engel", "Ferrari", "Gomez", "Hoffmann", "Ito", "Jensen", "Kim", "Lopez",
        "Meyer", "Nunez", "Olsen", "Peeters", "Richter", "Sato", "Turner", "Vidal", "Wagner",
        "Alvarez", "Berg", "Costa", "Diaz", "Evans", "Flores", "Hansen", "Kumar", "Lee",
        "Martin", "Nagy", "Perez", "Romero", "Singh",
    ),
    adjectives=(
        "blue", "red", "white", "grey", "small", "striped", "plain", "cream", "orange", "medium",
        "checked", "purple", "dark brown", "golden", "bright turquoise", "silver",
        "simple", "rustic", "elegant", "shiny",
    ),
    nouns=(
        "mug", "bowl", "tray", "blanket", "cushion", "basket", "vase", "candle", "notebook",
        "desk lamp", "tea towel", "picture frame", "storage box", "hairbrush", "wristwatch",
        "diary", "umbrella", "apron", "backpack", "wall clock", "doormat", "pencil case",
        "lunch bag", "napkin", "salad dish", "armchair", "egg cup", "wine glass", "bookend",
        "key ring", "bath mat", "oven glove", "toy lorry", "side table", "coat hook", "ladle",
        "bench", "nightlight", "photo album", "jug", "curtain", "fan", "ladder", "drawer",
        "helmet", "pen", "poster", "tent", "sleeping bag", "tool kit", "zip pouch", "bookcase",
        "cupboard", "carpet", "hammock", "shower head", "saucepan", "spoon", "fork", "tablecloth",
        "postcard", "puzzle", "board game", "skateboard", "guitar strap", "music stand",
        "phone holder", "speaker", "radio", "cable", "printer", "keyboard", "screen", "trolley",
        "whistle", "torch", "compass", "hat", "belt", "towel rail",
    ),
    cities=(
        "Lisbon", "Oslo", "Cape Town", "Krakow", "Valencia", "Osaka", "Lagos", "Denver",
        "Hamburg", "Toronto", "Istanbul", "Bogota", "Geneva", "Nairobi", "Auckland", "Prague",
        "Marseille", "Lahore", "Santa Fe", "Dublin", "Tbilisi", "Mumbai", "Antwerp", "Seoul",
        "Casablanca", "Porto", "Salt Lake City", "Helsinki", "Manila", "Montevideo",
        "Thessaloniki", "Bristol", "Kigali", "Rotterdam", "Phoenix", "Zagreb", "Seville",
        "Stockholm", "Houston", "Milan", "Leipzig", "Calgary", "Izmir", "Quito", "Zurich",
        "Mombasa", "Sydney", "Brno", "Nice", "Delhi", "Cork", "Jakarta", "Ghent", "Busan",
        "Tunis", "Boston", "Turin", "Tampere", "Hanoi", "Sofia", "Athens", "Leeds", "Dakar",
        "Utrecht", "Dallas", "Naples", "Warsaw", "Amman", "Cairo", "Santiago",
        "Melbourne", "Bangkok", "Bilbao", "Copenhagen", "Frankfurt", "Glasgow", "Havana",
        "Tallinn", "Buenos Aires",
        "Las Vegas", "Hong Kong", "Novi Sad", "Addis Ababa", "Rio Grande", "Tel Aviv", "Vilnius",
    ),
)  # fmt: skip

TEST_WORDS = Words(
    given_names=(
        "Akira", "Anders", "Camille", "Chloe", "Hana", "Freya", "Giulia", "Henry", "Imani",
        "Jamal", "Marta", "Kofi", "Leon", "Dario", "Pavel", "Soren", "Sven", "Tamara", "Tariq",
        "Umberto", "Valerie", "Wilfred", "Yasmin", "Zara",
    ),
    family_names=(
        "Abadi", "Brandt", "Cardoso", "Dahl", "Espinoza", "Fischer", "Gallo", "Haddad", "Ivanova",
        "Jimenez", "Keller", "Lindgren", "Moreau", "Nguyen", "Oliveira", "Park", "Reyes", "Silva",
        "Thompson", "Ueda", "Vasquez", "Winter", "Yamamoto", "Zhou",
    ),
    adjectives=(
        "black", "large", "yellow", "beige", "modern", "light violet", "standard", "classic",
    ),
    nouns=(
        "plate", "teapot", "wallet", "bucket", "coaster", "flower pot", "water bottle",
        "bread bin", "rocking chair", "door handle", "ball", "sweater", "shirt", "flag", "sofa",
        "dishcloth", "bar stool", "bedspread", "bird feeder", "running shoe", "soup pot", "tie",
        "window blind", "food container",
    ),
    cities=(
        "Rome", "Paris", "London", "Chicago", "San Diego", "Accra", "New Orleans", "Los Angeles",
        "Washington", "Kuala Lumpur", "Graz", "Limerick", "Nantes", "Mainz", "Gdansk", "Ostrava",
        "Oxford", "Durban", "Salzburg", "Bordeaux",
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
    "please bring {goods} to {city}{day} and ask for {name}.",
    "a parcel for {city}, please: {goods} for {name}{day}.",
    "in {city}, {name} is waiting for {goods}. Can you deliver{day}?",
    "our branch in {city} tells me that {name} has chosen {goods}{day}.",
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

DAY_CLAUSES = (
    " by {day}",
    " for {day}",
    " in time for {day}",
    " no later than {day}",
    " by next {day}",
)
DAY_SENTENCES = (
    "It should arrive by {day}.",
    "{day} would be perfect.",
    "Delivery on {day}, please.",
    "We need it by {day} at the latest.",
)
NO_DAY_SENTENCES = ("There is no rush.", "Any day is fine.", "Whenever it suits you.")
GREETINGS = ("Hi,", "Hello,", "Good morning,", "Hi there,", "Good afternoon,")
CLOSINGS = ("Thanks!", "Thank you.", "Many thanks.", "Thanks in advance.", "Best wishes.")

NUMBER_WORDS = (
    "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
)  # fmt: skip
COUNT_PHRASES = {
    "a pair of": 2,
    "a couple of": 2,
    "half a dozen": 6,
    "a dozen": 12,
    "two dozen": 24,
}


class Deck:
    """Deals words in random order, each of them once before any comes again."""

    def __init__(self, rng: random.Random, words: Sequence[str]) -> None:
        self._rng = rng
        self._words = words
        self._left: list[str] = []

    def deal(self) -> str:
        """Return the next word."""
        if not self._left:
            self._left = self._rng.sample(self._words, len(self._words))
        return self._left.pop()


class Source:
    """Makes the orders of one part of the data set."""

    def __init__(self, rng: random.Random, words: Words, phrasings: Sequence[str]) -> None:
        self._rng = rng
        self._given_names = Deck(rng, words.given_names)
        self._family_names = Deck(rng, words.family_names)
        self._adjectives = Deck(rng, words.adjectives)
        self._nouns = Deck(rng, words.nouns)
        self._cities = Deck(rng, words.cities)
        self._phrasings = Deck(rng, phrasings)

    def make_order(self) -> tuple[str, Order]:
        """Return an order as a customer would write it, and what it says."""
        rng = self._rng
        item = self._nouns.deal()
        if rng.random() < ADJECTIVE_SHARE:
            item = f"{self._adjectives.deal()} {item}"
        goods, quantity = make_goods(rng, item)
        order = Order(
            item=item,
            quantity=quantity,
            city=self._cities.deal(),
            customer=f"{self._given_names.deal()} {self._family_names.deal()}",
            day=rng.choice(DAYS) if rng.random() < DAY_SHARE else None,
        )
        return self._write(order, goods), order

    def _write(self, order: Order, goods: str) -> str:
        """Write the order in words."""
        rng = self._rng
        day_in_clause = order.day is not None and rng.random() < DAY_CLAUSE_SHARE
        body = self._phrasings.deal().format(
            goods=goods,
            name=order.customer,
            city=order.city,
            day=rng.choice(DAY_CLAUSES).format(day=order.day) if day_in_clause else "",
        )
        greeted = rng.random() < GREETING_SHARE
        sentences = [f"{rng.choice(GREETINGS)} {body}" if greeted else sentence_case(body)]
        if order.day is None and rng.random() < NO_DAY_SHARE:
            sentences.append(rng.choice(NO_DAY_SENTENCES))
        elif order.day is not None and not day_in_clause:
            sentences.append(rng.choice(DAY_SENTENCES).format(day=order.day))
        if rng.random() < CLOSING_SHARE:
            sentences.append(rng.choice(CLOSINGS))
        return " ".join(sentences)


def plural(item: str) -> str:
    """Return the plural of an item, by the regular rules of spelling."""
    if item.endswith(("s", "x", "ch", "sh")):
        return item + "es"
    if item.endswith("y") and item[-2] not in "aeiou":
        return item[:-1] + "ies"
    return item + "s"


def with_article(item: str) -> str:
    """Return the item after "a" or "an"."""
    return f"an {item}" if item[0] in "aeiou" else f"a {item}"


def make_goods(rng: random.Random, item: str) -> tuple[str, int]:
    """Return how an order may ask for some number of an item, and the number."""
    kind = rng.choices(("one", "word", "phrase", "digits"), weights=(3, 4, 4, 4))[0]
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
    """Return the text with its first letter in upper case."""
    return text[0].upper() + text[1:]


def make_row(text: str, order: Order) -> str:
    """Return one line of the file: the chat as JSON."""
    messages = [
        {"role": "system", "content": SYSTEM_MESSAGE},
        {"role": "user", "content": text},
        {"role": "assistant", "content": json.dumps(asdict(order))},
    ]
    return json.dumps({"messages": messages})


def make_rows(sources: Sequence[Source], count: int) -> list[str]:
    """Return that many different rows, from each source in turn."""
    rows: dict[str, None] = {}
    while len(rows) < count:
        text, order = sources[len(rows) % len(sources)].make_order()
        rows[make_row(text, order)] = None
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
    rng = random.Random(SEED)
    train = make_rows([Source(rng, TRAIN_WORDS, TRAIN_PHRASINGS)], TRAIN_ROWS)
    # By turns a phrasing that the training rows use and one that they do not.
    tests = [Source(rng, TEST_WORDS, known) for known in (TRAIN_PHRASINGS, TEST_PHRASINGS)]
    test = make_rows(tests, TEST_ROWS)
    write_lines(folder / "train.jsonl", train)
    write_lines(folder / "test.jsonl", test)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_FOLDER)
