"""The playground's controls in a notebook: choose, train, watch, compare."""

import html
import io
import os
import threading
from collections.abc import Callable
from typing import Any, get_args

import ipywidgets as widgets
import pandas as pd
from IPython.display import display
from matplotlib.figure import Figure

from l3muscle import figures
from l3muscle.book.theme import jupyter_svg
from l3muscle.errors import L3MuscleError, reason_of
from l3muscle.playground import STRONGEST, Choice, Playground, Run, Snapshot, Watched
from l3muscle.profile import SourceTask

LABEL_WIDTH = "13em"
CONTROLS_WIDTH = "24em"
LONGEST = 300  # steps that a control offers
RATES = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
SERVED = "JPY_SESSION_NAME"  # of a kernel's environment where a Jupyter server started it for a notebook
COLUMNS = {
    "source_task": "source task",
    "n_train": "n",
    "fold": "fold",
    "seed": "seed",
    "bce_weight": "BCE weight",
    "dice_weight": "Dice weight",
    "augmentation": "augmentation",
    "learning_rate": "learning rate",
    "steps": "steps",
}

OUTCOMES = {"validation loss": 3, "test Dice": 3, "lowest": 3, "study's Dice": 3, "seconds": 1}  # and their digits


def _live_figure(curve: pd.DataFrame, last_step: int, watched: Watched, shot: Snapshot | None) -> Figure:
    title, box = f"{watched.patient_id}, test slice", watched.box()
    masks = {"expert": watched.expert[box]}
    if shot is not None:
        title += f": Dice {shot.dice:.3f} at step {shot.step}"
        masks["network"] = shot.outline[box]
    return figures.training_so_far(curve, last_step, (title, watched.hu[box], watched.spacing, masks))


def _as_html(figure: Figure, words: str) -> str:
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    return f'<div role="img" aria-label="{html.escape(words)}">{jupyter_svg(stream.getvalue())}</div>'


def live_html(curve: pd.DataFrame, last_step: int, watched: Watched, shot: Snapshot | None) -> str:
    """The picture of a training that goes on, for Jupyter, with what it shows in words."""
    words = "Waiting for a training; a test slice with the expert's outline."
    if shot is not None:
        words = (
            f"Step {shot.step} of {last_step}: training loss {curve['train_loss'].iloc[-1]:.3f}, validation loss "
            f"{curve['validation_loss'].iloc[-1]:.3f}, Dice of the test slice {shot.dice:.3f}."
        )
    return _as_html(_live_figure(curve, last_step, watched, shot), words)


def film_html(run: Run) -> str:
    """The watched outline from the first validation to the last, for Jupyter."""
    film = run.film()
    words = "; ".join(title for title, *_ in film)
    return _as_html(figures.outlines(film), f"The outline of {run.watched.patient_id} as it grew: {words}.")


def comparison(playground: Playground, runs: list[Run]) -> pd.DataFrame:
    """The trainings of a session: what was chosen, and what came of it on the test slices.

    Returns
    -------
    DataFrame
        One row a run, numbered from 1: the choice, the lowest validation loss, mean and lowest Dice of the test slices,
        the stored study's mean Dice at this source task and n (NaN where it has none), and the seconds it took.
    """
    rows = []
    for run in runs:
        study = playground.of_study(run.choice)
        rows.append(
            {
                **{words: getattr(run.choice, name) for name, words in COLUMNS.items()},
                "validation loss": run.curve["validation_loss"].min(),
                "test Dice": run.scores.mean(),
                "lowest": run.scores.min(),
                "study's Dice": float("nan") if study is None else study[0],
                "seconds": run.seconds,
            }
        )
    columns = [*COLUMNS.values(), *OUTCOMES]
    return pd.DataFrame(rows, columns=columns, index=pd.RangeIndex(1, len(rows) + 1, name="run"))


def comparison_html(table: pd.DataFrame) -> str:
    """That table in Jupyter's own look, the best of the session in bold."""
    if table.empty:
        return "<p>No training yet.</p>"
    best = table["test Dice"].idxmax()

    def cell(name: str, value: Any, run: int) -> str:
        text = "–" if value != value else f"{value:.{OUTCOMES[name]}f}" if name in OUTCOMES else f"{value:.4g}"
        return f"<b>{text}</b>" if name == "test Dice" and run == best else text

    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in ["run", *table.columns])
    rows = "".join(
        f'<tr><th scope="row">{run}</th>'
        + "".join(
            f"<td>{html.escape(value) if isinstance(value, str) else cell(name, value, run)}</td>"
            for name, value in row.items()
        )
        + "</tr>"
        for run, row in table.iterrows()
    )
    return (
        '<div class="jp-RenderedHTMLCommon" style="overflow-x:auto"><table>'
        "<caption>Runs of this session, the highest Dice in bold</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


class Panel(widgets.VBox):
    """Controls, a picture that grows, and a table of the session's runs.

    Training happens in a thread of its own, so that *Stop* is heard meanwhile; one at a time.

    Parameters
    ----------
    playground : Playground
    choice : Choice
        What the controls show at first.

    Raises
    ------
    PlaygroundError
        If the choice is none that can be trained: the controls would quietly show another.
    """

    def __init__(self, playground: Playground, choice: Choice) -> None:
        playground.check(choice)
        self.playground = playground
        self.runs: list[Run] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.failure: Exception | None = None  # of the last training
        self.controls = self._make_controls(choice)
        self.watch = _labelled(widgets.Dropdown, "Slice to watch", options=playground.test_ids)
        self.train_button = widgets.Button(
            description="Train", icon="play", button_style="primary", tooltip="Train one model with these settings"
        )
        self.stop_button = widgets.Button(
            description="Stop", icon="stop", disabled=True, tooltip="End this training at its next validation"
        )
        self.progress = widgets.IntProgress(
            max=choice.steps, description="Progress", layout=widgets.Layout(width="auto")
        )
        self.status = widgets.HTML()
        self.picture = widgets.HTML(layout=widgets.Layout(flex="1 1 34em", min_width="20em"))
        self.table = widgets.HTML(comparison_html(pd.DataFrame()))
        self.film = widgets.HTML()
        self._tell(playground.about)
        self._show_slice()
        self.train_button.on_click(lambda button: self.start())
        self.stop_button.on_click(lambda button: self.stop())
        self.watch.observe(lambda change: self._show_slice(), names="value")
        buttons = widgets.HBox([self.train_button, self.stop_button])
        left = widgets.VBox(
            [*self.controls.values(), self.watch, buttons, self.progress, self.status],
            layout=widgets.Layout(flex="0 0 auto", width=CONTROLS_WIDTH, margin="0 1.5em 0 0"),
        )
        top = widgets.Box([left, self.picture], layout=widgets.Layout(flex_flow="row wrap", align_items="flex-start"))
        super().__init__([top, self.table])

    def _make_controls(self, choice: Choice) -> dict[str, widgets.Widget]:
        # The browser's own fields: a slider of ipywidgets has no name for a screen reader.
        whole, real = widgets.BoundedIntText, widgets.BoundedFloatText
        rates = sorted({*RATES, choice.learning_rate})
        made = {
            "source_task": _labelled(widgets.Dropdown, "Source task", options=get_args(SourceTask)),
            "n_train": _labelled(
                whole, f"Training slices n, 1–{self.playground.largest}", min=1, max=self.playground.largest
            ),
            "fold": _labelled(whole, f"Fold, 0–{self.playground.folds - 1}", min=0, max=self.playground.folds - 1),
            "seed": _labelled(whole, "Seed", min=0, max=10**6),
            "bce_weight": _labelled(real, "Weight of BCE", min=0, max=10, step=0.25),
            "dice_weight": _labelled(real, "Weight of Dice", min=0, max=10, step=0.25),
            "augmentation": _labelled(real, f"Augmentation, 0–{STRONGEST:g}", min=0, max=STRONGEST, step=0.25),
            "learning_rate": _labelled(
                widgets.Dropdown, "Learning rate", options=[(f"{rate:g}", rate) for rate in rates]
            ),
            "steps": _labelled(
                whole, f"Steps, 2–{max(LONGEST, choice.steps)}", min=2, max=max(LONGEST, choice.steps), step=20
            ),
        }
        for name, control in made.items():
            control.value = getattr(choice, name)
        return made

    def choice(self) -> Choice:
        """What the controls show."""
        return Choice(**{name: control.value for name, control in self.controls.items()})

    def start(self) -> None:
        """Train with what the controls show, unless a training is under way."""
        if self._thread is not None and self._thread.is_alive():
            return
        choice = self.choice()
        self._stop.clear()
        self.progress.max = choice.steps
        self.progress.value, self.progress.bar_style = 0, ""
        self.train_button.disabled, self.stop_button.disabled = True, False
        self._tell("Training.")
        self._thread = threading.Thread(target=self._train, args=(choice, self.watch.value), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the training that is under way at its next validation."""
        self._stop.set()

    def wait(self) -> None:
        """Return when no training is under way."""
        if self._thread is not None:
            self._thread.join()

    def run(self) -> Run:
        """Train with what the controls show, and wait for it.

        Raises
        ------
        L3MuscleError
            Whatever the training raised.
        """
        self.start()
        self.wait()
        if self.failure is not None:
            raise self.failure
        return self.runs[-1]

    def first(self) -> widgets.HTML | Figure:
        """Train for the first time, to be the last line of a cell.

        Returns
        -------
        HTML or Figure
            The watched outline as it grew. In a notebook that a person has open it appears when the training has ended,
            as a cell that waited would keep *Stop* from being heard; elsewhere this waits, and shows the losses too.
        """
        if SERVED in os.environ:
            self.start()
            return self.film
        run = self.run()
        display(_live_figure(run.curve, run.choice.steps, run.watched, run.snapshots[-1]))
        return figures.outlines(run.film())

    def comparison(self) -> pd.DataFrame:
        """The session's runs as a table."""
        return comparison(self.playground, self.runs)

    def _train(self, choice: Choice, watch: str) -> None:
        self.failure = None
        watched = self.playground.watched(watch)

        def show(curve: pd.DataFrame, shot: Snapshot) -> None:
            self.picture.value = live_html(curve, choice.steps, watched, shot)

        try:
            run = self.playground.train(
                choice, watch=watch, on_snapshot=show, on_step=self._count, stop=self._stop, say=self._tell
            )
        except Exception as error:  # nobody else would hear of it
            self.failure = error
            self.progress.bar_style = "danger"
            known = isinstance(error, L3MuscleError)
            self._tell(f"Not trained: {reason_of(error) if known else f'{type(error).__name__}: {reason_of(error)}'}")
        else:
            self.runs.append(run)
            self.progress.value = self.progress.max
            self.progress.bar_style = "success" if run.stopped == "max_steps" else "warning"
            self.table.value = comparison_html(self.comparison())
            self.film.value = film_html(run)
            self._tell(_outcome(run, len(self.runs)))
        finally:
            self.train_button.disabled, self.stop_button.disabled = False, True

    def _count(self, step: int) -> None:
        self.progress.value = step - 1

    def _tell(self, text: str) -> None:
        self.status.value = f'<div role="status" style="line-height:1.4">{html.escape(text)}</div>'

    def _show_slice(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            watched = self.playground.watched(self.watch.value)
            self.picture.value = live_html(pd.DataFrame(), self.controls["steps"].value, watched, None)


def _labelled(make: Callable[..., widgets.Widget], label: str, **settings: Any) -> widgets.Widget:
    """A control whose label is as wide as all others."""
    return make(
        description=label,
        style={"description_width": LABEL_WIDTH},
        layout=widgets.Layout(width="auto"),
        **settings,
    )


def _outcome(run: Run, number: int) -> str:
    ended = "" if run.stopped == "max_steps" else f" ({run.stopped})"
    return (
        f"Run {number}{ended}: mean Dice {run.scores.mean():.3f} on {len(run.scores)} test slices, lowest "
        f"{run.scores.min():.3f} ({run.scores.idxmin()}); weights of step {run.best_step}, {run.seconds:.1f} s. "
        f"It started from {run.start}."
    )
