"""A page may send a choice that was one a moment ago."""

from types import SimpleNamespace

import gradio as gr
import pytest

from app.ui.choices import as_it_is, follow_the_result


@pytest.mark.parametrize(
    ("component", "chosen", "former"),
    [
        (gr.Dropdown([], value=None), None, 0),
        (gr.Dropdown([("query: a", 0)], value=0), 0, 3),
        (gr.Radio(["fill", "outline"], value="fill"), "fill", "errors"),
        (gr.CheckboxGroup(choices=["left"], value=["left"]), ["left"], ["left", "right"]),
    ],
)
def test_what_is_no_choice_any_more_is_what_the_server_chose(component, chosen, former):
    assert as_it_is(component, chosen) == chosen
    assert as_it_is(component, former) == chosen
    assert as_it_is(component, None) is None


def ended(coroutine):
    """What one returns that waits for nothing; the browser tests' loop may be under way."""
    with pytest.raises(StopIteration) as end:
        coroutine.send(None)
    return end.value.value


def test_only_what_follows_the_result_is_exchanged():
    async def preprocess(event, inputs, state):
        return inputs

    scan, strategy = gr.Dropdown(["a", "b"], value="b"), gr.Dropdown(["one_shot"])
    page, event = SimpleNamespace(preprocess_data=preprocess), SimpleNamespace(inputs=[scan, strategy])
    follow_the_result(page, [scan])
    sessions = {scan._id: gr.Dropdown(["c"], value="c"), strategy._id: strategy}
    assert ended(page.preprocess_data(event, ["b", "unheard of"], sessions)) == ["c", "unheard of"]
    assert ended(page.preprocess_data(event, ["c"], sessions)) == ["c"]  # too few: gradio says so
    assert ended(page.preprocess_data(event, ["b", "one_shot"], None)) == ["b", "one_shot"]
