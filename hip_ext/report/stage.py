"""The 3D view of a section with what belongs to it: choice of scene, steps, play, amplitude, measuring."""

from __future__ import annotations

from collections.abc import Sequence

from hip_ext.report.markup import Markup, tag
from hip_ext.report.scenes import Scene

KEYS = "3D view: arrow keys turn it, plus and minus zoom, 0 puts it back, space plays and stops"


def stage(place: str, scenes: Sequence[Scene]) -> Markup:
    """The view; everything in it is brought to life by report.js.

    Args:
        place: prefix of the identifiers, one a section.
        scenes: at least one.
    """
    canvas = tag("canvas", tabindex=0, role="application", aria_label=KEYS)
    caption = tag("output", scenes[0].data["captions"][scenes[0].start], class_="caption", aria_live="polite")
    return tag("div", tag("div", canvas, caption, class_="view"), _choice(place, scenes), _controls(), class_="stage")


def _choice(place: str, scenes: Sequence[Scene]) -> Markup:
    if len(scenes) == 1:
        return Markup("")
    radios = [
        tag(
            "label",
            tag("input", type="radio", name=f"{place}scene", value=k, checked=k == 0),
            tag("span", scene.title),
        )
        for k, scene in enumerate(scenes)
    ]
    return tag("fieldset", tag("legend", "Shown", class_="unseen"), radios, class_="choice")


def _controls() -> Markup:
    step = tag(
        "div",
        tag("button", "‹", type="button", class_="back", aria_label="previous"),
        tag("input", type="range", class_="index", min=0, max=0, value=0, aria_label="mode or frame"),
        tag("button", "›", type="button", class_="next", aria_label="next"),
        tag("button", "Play", type="button", class_="play", aria_pressed="false"),
        class_="row steps",
    )
    options = tag(
        "div",
        tag("label", "Swing", tag("input", type="range", class_="amplitude", min=0, max=1, step=0.05, value=0.4)),
        tag("label", tag("input", type="checkbox", class_="arrows"), "Arrows"),
        tag("label", tag("input", type="checkbox", class_="labels"), "Labels"),
        tag("button", "Reset view", type="button", class_="reset"),
        class_="row",
    )
    measure = tag(
        "div",
        tag(
            "label",
            "Measure atoms",
            tag("input", type="text", class_="measure", inputmode="numeric", size=9, placeholder="1 2 3"),
        ),
        tag("output", "or pick two to four in the view", class_="measured", aria_live="polite"),
        class_="row",
    )
    return tag("div", step, options, measure, class_="controls")
