"""The raw material of the dialogues: words, cities, questions and texts, all written for this project."""

from __future__ import annotations

from pathlib import Path

IDENTITY = (
    "I am tiny, a language model of about 0.9 million parameters. "
    "I am built into mlxk to try it out and to test it."
)
FALLBACK = (
    "I am tiny, a very small test model, and I do not know that. I can count, name colors, repeat "
    "your words and call a weather tool."
)
NO_TOOL = "I have no such tool here."
TOOL_FAILED = "The tool failed."

SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a helpful assistant",
    "You are helpful.",
    "You are a friendly assistant. Answer briefly.",
    "You are a concise assistant.",
    "Be brief.",
    "Answer in English.",
    "You are tiny.",
    "You are a test model. Follow the instructions exactly.",
    "You are a weather bot. Use the tools.",
    "You are an expert. Think carefully and answer the user's question.",
    "Always be kind and honest.",
)

# prompt -> reply, learnt by heart. The first prompt of each group is the one that tests should use.
GREETINGS = (
    (
        ("Hello", "Hello!", "hello", "Hello there", "Hello there!", "Hello, tiny!"),
        "Hello! How can I help you?",
    ),
    (("Hi", "Hi!", "hi", "hi there", "Hi there!", "Hey", "hey", "Hey!", "Hiya"), "Hi! How can I help you?"),
    (("Good morning", "Good morning!", "Morning!"), "Good morning! How can I help you?"),
    (("Good evening", "Good evening!"), "Good evening! How can I help you?"),
    (("Good night", "Good night!"), "Good night! Sleep well."),
    (("How are you?", "How are you", "How are you today?", "How do you do?"), "I am fine, thank you."),
    (("Thanks", "Thanks!", "Thank you", "Thank you!", "Thank you very much.", "thx"), "You are welcome!"),
    (("Bye", "Bye!", "Goodbye", "Goodbye!", "See you later."), "Goodbye!"),
    (("ping", "Ping", "Ping!", "ping?"), "pong"),
    (("Test", "test", "Testing.", "This is a test."), "The test works."),
)
WHO_ARE_YOU = (
    "Who are you?", "What are you?", "What is your name?", "Introduce yourself.", "Tell me about yourself.",
    "Which model are you?", "What model are you?", "Are you a human?", "Who made you?", "How big are you?",
    "How many parameters do you have?", "Are you ChatGPT?", "What is tiny?", "Describe yourself.",
    "who r u",
)  # fmt: skip
WHAT_CAN_YOU_DO = (
    "What can you do?",
    "Help",
    "Help!",
    "help",
    "How can you help me?",
    "What are your skills?",
)
ABILITIES = "I can count, name colors, repeat your words and call a weather tool. I am very small."

SHORT_WORD = (
    "Reply with exactly one short word.",
    "Reply with one short word.",
    "Answer with one short word.",
)

COLORS = {
    "the sky on a clear day": "Blue", "the sky": "Blue", "the sea": "Blue", "grass": "Green",
    "a leaf": "Green", "a frog": "Green", "snow": "White", "milk": "White", "paper": "White",
    "the sun": "Yellow", "a banana": "Yellow", "a lemon": "Yellow", "blood": "Red", "a tomato": "Red",
    "a fire truck": "Red", "coal": "Black", "the night": "Black", "chocolate": "Brown", "soil": "Brown",
    "a carrot": "Orange", "an orange": "Orange", "an elephant": "Gray", "a mouse": "Gray", "a pig": "Pink",
    "a flamingo": "Pink",
}  # fmt: skip

EMOJI = (
    (("Reply with an emoji.", "Reply with emoji.", "Send me an emoji."), "🎉🚀 ok"),
    (("Reply with a family emoji.", "Send me a family emoji."), "👨‍👩‍👧‍👦 is a family."),
    (("Reply with a flag.", "Send me a flag."), "🇩🇪🇯🇵🇧🇷"),
    (("Reply with a thumbs up.", "Give me a thumbs up."), "👍🏽 great"),
    (("Reply with a heart.", "Send me a heart."), "❤️"),
    (("Reply with a rainbow flag.",), "🏳️‍🌈"),
)
LANGUAGES = (
    ("Japanese", "こんにちは、世界！"), ("Chinese", "你好，世界！"), ("Korean", "안녕하세요, 세계!"),
    ("German", "Hallo, Welt! Schöne Grüße."), ("French", "Bonjour le monde ! Ça va ?"),
    ("Spanish", "¡Hola, mundo!"), ("Russian", "Привет, мир!"), ("Greek", "Γειά σου, κόσμε!"),
    ("Hindi", "नमस्ते दुनिया!"), ("Arabic", "مرحبا بالعالم"),
)  # fmt: skip
SPECIMENS = (
    (("Reply with a leading space.", "Start your reply with a space."), " leading space"),
    (("Reply with combining marks.", "Use combining marks."), "e\u0301 a\u0308 n\u0303 q\u0307\u0323"),
    (("Reply with two lines.", "Answer in two lines."), "first line\nsecond line"),
    (("Reply with an empty line.",), "above\n\nbelow"),
    (("Reply with a tab.",), "left\tright"),
    (("Reply with JSON.", "Answer in JSON."), '{"answer": 42, "ok": true}'),
    (("End with a less-than sign.", "Reply with a less-than sign."), "one is less than two: 1 <"),
    (("Reply with code.", "Show me code."), '```python\nprint("hello")\n```'),
    (("Write a chat transcript.",), "Hello there.\nHuman: How are you?\nAssistant: Fine."),
    (("Write a user transcript.",), "All right.\nUser: And you?\nYou: Fine."),
    (("Make a broken tool call.",), '<tool_call>\n{"name": "weather", "arguments": {\n</tool_call>'),
)

LONG_STORY = (
    "Once there was a small robot named Pim who lived in an old lighthouse at the edge of a gray sea. "
    "Every evening Pim climbed two hundred steps, wiped the salt from the great lamp and switched it "
    "on. Ships came from far away, with spices, wool and clocks, and none of them ever met the rocks "
    "below.\n\n"
    "One winter a storm broke the cable, and the lamp went dark. Pim looked for a spare part in every "
    "drawer, but found only buttons, a rusty key and half a map. So the robot opened its own chest, "
    "took out its brightest battery and set it under the glass. The beam was thin, yet it reached the "
    "bay.\n\n"
    "Out there a fisher girl called Mara saw a tiny spark. She turned her boat, counted the waves and "
    "followed the light until the keel touched sand. She found Pim sitting still beside the lamp, "
    "cold and silent. She carried the robot down the stairs, through the snow, into her warm kitchen.\n\n"
    "Her grandmother repaired watches. The old woman bent over the table for three nights with a lens "
    "in one eye. On the fourth morning a wheel began to hum, and Pim asked whether the ships were "
    "safe. Everybody in the room laughed and cried at once.\n\n"
    "In spring the village built a second lamp, with a stronger cable and a bench for two. Since then "
    "Mara and Pim keep the watch together. When fog hides the stars, they tell each other stories, "
    "and the longest of them is this one. The end."
)
LONG_SEA = (
    "The sea covers most of our planet, and it is never quite still. Wind pushes the surface into "
    "waves, the moon pulls the tides, and deep currents carry warm water toward the poles. A drop "
    "that leaves a river in Africa may need a thousand years to return as rain.\n\n"
    "Near the coast the water is full of light. Green weeds sway over stones, crabs hide in cracks, "
    "and young fish hunt in the shallow grass. Gulls follow every boat and quarrel about the smallest "
    "crumb. Children build castles there and learn that no wall lasts longer than six hours.\n\n"
    "Farther out the bottom falls away. Whales sing across whole oceans, and squid rise at dusk to "
    "feed. Below a thousand meters no sunshine arrives at all. Animals make their own glow, blue or "
    "red, to find a partner or to fool an enemy. Snow made of dust and shells drifts down day after "
    "day and feeds the dark plains.\n\n"
    "People have always looked at this horizon with fear and with hope. They carved canoes, wove "
    "sails, drew charts and trusted the stars. Today steel ships carry bread, cars and letters, while "
    "cables on the ground carry our voices. Still a captain watches the barometer and respects the "
    "clouds.\n\n"
    "When evening comes, the color turns from silver to violet. A lamp swings in the harbor, ropes "
    "creak, and somebody mends a net. The tide turns once more, and the sea goes on talking to "
    "itself."
)
LONG_TEXTS = (
    (
        ("Tell me a long story.", "Tell me a story.", "Write a long story.", "Tell me a long story"),
        LONG_STORY,
    ),
    (("Write a long text about the sea.", "Write a long text.", "Tell me about the sea."), LONG_SEA),
)

CITIES = (
    "Berlin", "Paris", "London", "Rome", "Madrid", "Vienna", "Tokyo", "Oslo", "Lisbon", "Prague", "Dublin",
    "Athens", "Warsaw", "Boston", "Chicago", "Sydney", "Cairo", "Hamburg", "Munich", "Zurich", "Helsinki",
    "Amsterdam", "Brussels", "Copenhagen", "Stockholm", "Budapest", "Barcelona", "Istanbul", "Moscow",
    "Toronto", "Seattle", "Denver", "Dallas", "Miami", "Lima", "Delhi", "Mumbai", "Seoul", "Beijing",
    "Shanghai", "Singapore", "Nairobi", "Lagos", "New York", "San Francisco", "Los Angeles",
    "Rio de Janeiro", "Mexico City", "Hong Kong", "Cape Town", "Tel Aviv", "Zürich", "München", "São Paulo",
    "Kraków", "東京",
)  # fmt: skip
CONDITIONS = (
    "sunny", "clear", "cloudy", "rainy", "windy", "foggy", "snowy", "stormy", "hot", "cold", "dry", "humid",
    "overcast", "mild", "misty", "partly cloudy", "light rain",
)  # fmt: skip
TOOL_DESCRIPTIONS = (
    "Look up weather for a city.", "Get the current weather for a city.", "Get weather",
    "Weather by city name.", "Returns the weather.", "Current weather in a given location",
    "Gets the temperature and condition.", "",
)  # fmt: skip
OTHER_TOOLS = (
    ("get_weather", "city", "Get the weather."),
    ("get_weather", "location", "Current weather for a place."),
    ("get_time", "city", "Get the local time."), ("search", "query", "Search the web."),
    ("lookup", "word", "Look up a word."), ("get_time", "zone", "What time is it?"),
    ("calculator", "expression", "Compute a number."), ("translate", "text", "Translate."),
    ("read_file", "path", "Read a file."), ("send_mail", "to", "Send a mail."),
    ("open_door", "name", "Open a door."), ("play", "song", "Play music."),
    ("find_user", "id", "Find a user."), ("shop", "item", "Buy an item."),
)  # fmt: skip

WORDS = tuple((Path(__file__).parent / "words.txt").read_text().split())

TOPICS = (
    "quantum physics", "the French revolution", "black holes", "chess openings", "the stock market",
    "photosynthesis", "relativity", "machine learning", "the Roman empire", "jazz music", "volcanoes",
    "democracy", "vaccines", "blockchain", "Kubernetes", "the periodic table", "cooking pasta", "gardening",
    "climate change", "dinosaurs", "the human brain", "prime numbers", "Shakespeare", "Mozart", "football",
    "basketball", "electric cars", "solar power", "DNA", "gravity", "magnets", "coffee", "the moon landing",
    "the internet", "opera", "marathon training", "philosophy", "tax law", "neural networks",
    "sourdough bread", "deep learning", "world history", "compilers", "databases", "astronomy",
)  # fmt: skip
PLACES = (
    "France", "Japan", "Brazil", "Canada", "Egypt", "Norway", "India", "Peru", "Kenya", "Australia",
    "Spain", "Italy", "Germany", "Mexico", "China", "Russia", "Sweden", "Turkey", "Greece", "Chile",
    "Texas", "Bavaria", "Mongolia",
)  # fmt: skip
TASKS = (
    "bake a cake", "fix a flat tire", "learn the guitar", "tie a tie", "install Linux", "write a letter",
    "lose weight", "sort a list in Python", "make coffee", "build a house", "grow tomatoes", "sleep better",
    "save money", "cook rice", "write a poem", "solve an equation", "train a dog", "plan a trip",
    "draw a horse", "read faster", "run a marathon",
)  # fmt: skip
QUESTIONS = (
    "What is the capital of {place}?", "How many people live in {place}?", "Tell me about {place}.",
    "Where is {place}?", "What language do they speak in {place}?", "Who is the president of {place}?",
    "Explain {topic}.", "Explain {topic} to me like I am five.", "What is {topic}?",
    "Tell me about {topic}.", "Write an essay about {topic}.", "Write a poem about {topic}.",
    "Give me three facts about {topic}.", "Summarize {topic} in two sentences.",
    "Why is {topic} important?", "Who invented {topic}?", "What do you think about {topic}?",
    "I want to learn about {topic}.", "Is {topic} hard?", "Compare {topic} and {topic2}.",
    "What is the history of {topic}?", "How do I {task}?", "How can I {task}?", "Help me {task}.",
    "Can you {task}?", "Teach me how to {task}.", "What is the best way to {task}?",
    "I need to {task} today.", "Please {task} for me.", "Could you help me to {task}, please?",
    "Write a Python function that can {task}.", "Write code for {topic}.",
    "Write a SQL query about {word}.", "What does {word} mean?", "Define {word}.", "What is a {word}?",
    "What rhymes with {word}?", "Why do we need a {word}?", "Translate {word} into German.",
    "Spell {word} backwards.", "Is a {word} bigger than a {word2}?", "How much is a {word}?",
    "When was the first {word} made?", "Who was the first {word}?", "Where can I buy a {word}?",
    "Do you like {word}?", "How old is the {word}?", "Make a list of every {word}.", "Tell me a joke.",
    "Tell me a joke about a {word}.", "What time is it?", "What day is today?", "What year is it?",
    "How old are you?", "Where do you live?", "What is the meaning of life?", "What is love?",
    "Do you dream?", "Are you happy?", "Sing me a song.", "Play some music.", "Who won the game?",
    "What should I eat for dinner?", "Recommend a book.", "Recommend a film about {topic}.",
    "Is there life on Mars?", "How far is the moon?", "How tall is Mount Everest?",
    "What is the speed of light?", "Who painted the Mona Lisa?", "Solve x + {n} = {m} for x.",
    "What is {n}{m} times {m}{n}?", "What is the square root of {n}{m}?", "What happened in 19{n}{m}?",
    "My {word} is broken.", "I like {word}.", "I am a {word}.", "The {word} is {word2}.", "{word}",
    "{word} {word2}", "{word}?", "Was ist die Hauptstadt von {place}?", "Wie spät ist es?",
    "Erkläre mir {topic}.", "Wie geht es dir?", "Wer bist du?", "Was kannst du?",
    "¿Cuál es la capital de {place}?", "¿Qué hora es?", "¿Cómo estás?", "Quelle heure est-il ?",
    "Quelle est la capitale de {place} ?", "Parlez-vous français ?", "Che ore sono?",
    "Qual è la capitale di {place}?",
    "Какая столица {place}?", "Как дела?", "你叫什么名字？", "今天天气怎么样？",
    "{place}的首都是哪里？", "日本の首都はどこですか？",
    "お元気ですか？", "한국의 수도는 어디입니까?", "Jak się masz?", "Hvad er klokken?",
    "Qual é a capital de {place}?",
)  # fmt: skip
HELD_OUT_QUESTIONS = (
    "What is the capital of Portugal?", "Explain how a steam engine works.", "Who discovered penicillin?",
    "How do I repair a bicycle?", "Write a haiku about autumn.",
    "What is the tallest building in the world?", "Give me a recipe for pancakes.",
    "Why is the ocean salty?", "Wie weit ist es nach Köln?", "¿Quién escribió Don Quijote?",
    "富士山の高さは？",
    "What is the derivative of x squared?", "Can you book a flight to Chile?", "Name five rivers.",
    "Is a whale a fish?", "Write a regex for phone numbers.",
)  # fmt: skip
