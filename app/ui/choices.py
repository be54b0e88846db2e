"""Choices that follow the result."""

from collections.abc import Collection

import gradio as gr


def follow_the_result(page: gr.Blocks, components: Collection[gr.components.Component]) -> None:
    """Where a page sends a choice that another result has just taken away, what the server has chosen instead holds.

    components: a Dropdown, Radio or CheckboxGroup each.
    """
    following, preprocess = {component._id for component in components}, page.preprocess_data

    async def preprocess_data(event, inputs, state, *more, **options):
        here = [
            as_it_is(state[block._id], sent) if state and block._id in following and block._id in state else sent
            for block, sent in zip(event.inputs, inputs, strict=False)
        ]
        return await preprocess(event, [*here, *inputs[len(here) :]], state, *more, **options)

    page.preprocess_data = preprocess_data


def as_it_is(component, sent):
    """What was sent if a component has it to choose, else what is chosen there."""
    choices = [value for _, value in component.choices]
    wanted = sent if isinstance(sent, list) else [sent]
    return sent if sent is None or all(value in choices for value in wanted) else component.value
