"""Published reference values: the scores on the model card of SFR-Embedding-Mistral, and token ids of its tokenizer.

Plain values with their sources; knows nothing of checks.
"""

from sfr_batch.model.prompts import instruct

TASK = "Given a web search query, retrieve relevant passages that answer the query"
QUERIES = ("How to bake a chocolate cake", "Symptoms of the flu")
PASSAGES = (
    (
        "To bake a delicious chocolate cake, you'll need the following ingredients: all-purpose flour, "
        "sugar, cocoa powder, baking powder, baking soda, salt, eggs, milk, vegetable oil, and vanilla "
        "extract. Start by preheating your oven to 350°F (175°C). In a mixing bowl, combine the dry "
        "ingredients (flour, sugar, cocoa powder, baking powder, baking soda, and salt). In a separate "
        "bowl, whisk together the wet ingredients (eggs, milk, vegetable oil, and vanilla extract). "
        "Gradually add the wet mixture to the dry ingredients, stirring until well combined. Pour the "
        "batter into a greased cake pan and bake for 30-35 minutes. Let it cool before frosting with "
        "your favorite chocolate frosting. Enjoy your homemade chocolate cake!"
    ),
    (
        "The flu, or influenza, is an illness caused by influenza viruses. Common symptoms of the flu "
        "include a high fever, chills, cough, sore throat, runny or stuffy nose, body aches, headache, "
        "fatigue, and sometimes nausea and vomiting. These symptoms can come on suddenly and are usually "
        "more severe than the common cold. It's important to get plenty of rest, stay hydrated, and "
        "consult a healthcare professional if you suspect you have the flu. In some cases, antiviral "
        "medications can help alleviate symptoms and reduce the duration of the illness."
    ),
)
SCORES = ((86.7153549194336, 36.64569091796875), (35.00493621826172, 82.0738525390625))
"""Cosines of `QUERIES` (rows), under `prompts.instruct(TASK)`, and `PASSAGES` (columns), times 100.

Source: https://huggingface.co/Salesforce/SFR-Embedding-Mistral, "How to run", "Transformers" (CC-BY-NC-4.0). Its
sentence-transformers example prints the same within 0.0001.
"""

MISTRAL_IDS = {
    text: [int(number) for number in ids.split()]
    for text, ids in {
        "How to bake a chocolate cake": "1 1602 298 287 621 264 14403 14833 2",
        "": "1 2",
        " ": "1 259 2",
        " leading space": "1 28705 5374 2764 2",
        "two  spaces,   three": "1 989 28705 10599 28725 259 1712 2",
        "line\nline\r\n\n line": "1 1407 13 1081 28801 13 13 1407 2",
        "\ttab\t\ttabs": "1 28705 12 4252 12 12 24856 2",
        "日本語の文章です。中文 한국어": (
            "1 28705 29142 29119 30321 28993 29019 30138 29230 29126 28944 28991 29019 28705 29282 30779 29433 2"
        ),
        "Ünïcödé Straße İstanbul ΑΒΓ абв": (
            "1 13156 28711 28920 28717 14697 28797 12360 9526 28705 29336 13511 9258 28705 29411 30431 "
            "30149 1622 28817 28791 2"
        ),
        "x = f(y, 1234567890) != 3.14159e-10 # ok": (
            "1 1318 327 285 28732 28724 28725 28705 28740 28750 28770 28781 28782 28784 28787 28783 "
            "28774 28734 28731 1283 28705 28770 28723 28740 28781 28740 28782 28774 28706 28733 28740 28734 422 3614 2"
        ),
        instruct(TASK) + QUERIES[0]: (
            "1 560 1356 28747 12628 264 4686 3472 5709 28725 20132 8598 1455 1291 369 4372 272 5709 13 "
            "3294 28747 1602 298 287 621 264 14403 14833 2"
        ),
    }.items()
}
"""Text -> token ids of the tokenizer of Mistral-7B-v0.1 between BOS and EOS, for texts without a literal special token.

Source: tokenizer.model of that release (mistral-common carries it as tokenizer.model.v1), encoded by sentencepiece.
"""
MISTRAL_VOCABULARY = 32000
"""By which a model with that tokenizer is known; later releases of Mistral have another size."""
