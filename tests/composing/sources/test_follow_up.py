"""Questions as LLaVA's rows have them in later turns: those that stand alone, and those that ask on."""

import pytest

from lookright.composing.sources.follow_up import standing_instruction, stands_alone

ALONE = """What feature can be seen on the back of the bus?
Is the bus driving down the street or pulled off to the side?
What is the man doing with his hand?
What might the woman be thinking about while she walks her dog?
Is the dog wagging its tail?
What type of book is this?
Is this a financial book?
Who wrote this book?
What is the title of this book?
Where is this photo taken?
Are these animals in a zoo?
Is it raining?
What time of day is it?
Why is the man smiling?
Why are there umbrellas on the beach?
What are the objects that are on the table?
Is there a person who looks like a police officer in the image?
How does the scene convey a sense of motion?
Please provide a short description for this region: [0.1, 0.2, 0.3, 0.4].
Please provide the bounding box coordinate of the region this sentence describes: man in red.
Which kind of furniture is not blue?
How many people are there?""".splitlines()

LEANING = """Why?
Why is that?
What color?
What color is it?
What is it used for?
What else is in the picture?
And the other one?
But why is the sky red?
What about the dog?
What are they doing?
Is he wearing a hat?
What is her job?
What color is the hat he is wearing?
What material is its roof made of?
What is the purpose of them?
Which one is bigger?
Do you think it's an old one?
What’s that called?
Does that man look old?
How is that possible?
How might this situation affect traffic?
What does this suggest about the mood?
Why is this unusual?
Are there any other animals in the scene?
Can you tell me more about the scene?
What can you say about the previous answer?
What is special about the building you mentioned?""".splitlines()


@pytest.mark.parametrize("question", ALONE)
def test_what_the_picture_alone_explains_stands_alone(question: str) -> None:
    assert stands_alone(question)


@pytest.mark.parametrize("question", LEANING)
def test_what_asks_on_does_not(question: str) -> None:
    assert not stands_alone(question)


BRIEFLY = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."


@pytest.mark.parametrize(
    ("question", "wanted"),
    [
        (f"What is it?\n{BRIEFLY}", BRIEFLY),
        (f"Which?\nA. red\nB. blue\n{LETTER}", LETTER),
        ("Answer the question: what is it?", ""),
        ("What is it?\nIs it red?", ""),
    ],
)
def test_how_to_answer_is_the_last_line_of_several(question: str, wanted: str) -> None:
    assert standing_instruction(question) == wanted
