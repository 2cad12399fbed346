"""One notebook, executed by papermill in a kernel of its own.

Papermill takes as long to import as torch (a validator of addresses compiles its grammar), so only what executes a
notebook imports it.
"""

import json
import logging
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyter_client.manager import AsyncKernelManager

from l3muscle.files import replaced

# ipykernel keeps what libraries write to the terminal for itself, and loses it when it dies: here it goes to the log.
KERNEL_ARGUMENTS = ["--IPKernelApp.log_level=50", "--IPKernelApp.capture_fd_output=False"]
PAUSED = "TrainingPaused"  # of `l3muscle.training`, which takes seconds to import
LAST_LINES = 3  # of a dead kernel's log


@dataclass(frozen=True)
class Outcome:
    """What became of one notebook.

    Attributes
    ----------
    state : {"done", "failed", "died", "paused"}
        Failed: a cell raised an error. Died: its process was killed. Paused: the time was up, or what it builds on has
        not come about.
    reason : str
        The error, or the signal and the last words.
    """

    state: str
    reason: str = ""


def execute_notebook(
    template: Path,
    out: Path,
    parameters: dict[str, Any],
    *,
    kernel: str = "python3",
    cwd: Path | None = None,
    log: Path | None = None,
    inputs: str = "",
) -> Outcome:
    """Execute a notebook; what was executed stays in `out`, up to a cell that failed.

    Parameters
    ----------
    template, out : Path
    parameters : dict
        As papermill takes them.
    kernel : str
        Name of the Jupyter kernel.
    cwd : Path, optional
        Where it runs.
    log : Path, optional
        Gets what the kernel's process writes to its standard error.
    inputs : str
        Identity of all that decides what it shows; noted in the executed notebook once that is complete.
    """
    import nbformat
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    # What it says of a kernel that died, the outcome says with the reason.
    logging.getLogger("papermill").setLevel(logging.CRITICAL)
    manager = _logging_to(log)
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        notebook = papermill.execute_notebook(
            str(template.resolve()),
            str(out.resolve()),
            parameters=parameters,
            kernel_name=kernel,
            cwd=cwd,
            progress_bar=False,
            kernel_manager_class=manager,
            extra_arguments=KERNEL_ARGUMENTS,
            # All it made is written: taking torch and the rest down in order costs a tenth of a short notebook's time.
            shutdown_kernel="immediate",
        )
    except PapermillExecutionError as error:
        if error.ename == PAUSED:
            return Outcome("paused")
        return Outcome("failed", f"cell {error.cell_index + 1}: {error.ename}: {error.evalue}")
    except (DeadKernelError, RuntimeError) as error:
        # A kernel that dies before it answers is a RuntimeError of nbclient.
        return Outcome("died", f"{manager.exit_reason() or error}{_log_tail(log)}")
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if {"parameters", "injected-parameters"} & set(tags):
            tags.append("remove-cell")  # a page's header says what matters of them
    # Papermill notes where and when it ran: neither belongs on a page.
    notebook.metadata.pop("papermill", None)
    notebook.metadata["l3muscle"] = {"inputs": inputs}
    with replaced(out) as temporary:
        nbformat.write(notebook, temporary)
    return Outcome("done")


def is_current(out: Path, inputs: str) -> bool:
    """Whether a notebook was executed to its end with these `inputs`."""
    try:
        return json.loads(out.read_text(encoding="utf-8"))["metadata"]["l3muscle"]["inputs"] == inputs
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _logging_to(log: Path | None) -> type[AsyncKernelManager]:
    """A kernel manager whose kernel writes its standard error to a file, and which knows how the kernel ended."""

    class Manager(AsyncKernelManager):
        """The manager of one kernel."""

        process = None

        async def _async_launch_kernel(self, kernel_cmd: list[str], **options: Any) -> None:
            if log is not None:
                log.parent.mkdir(parents=True, exist_ok=True)
                options["stderr"] = log.open("wb")
            await super()._async_launch_kernel(kernel_cmd, **options)
            Manager.process = getattr(self.provisioner, "process", None)

        @classmethod
        def exit_reason(cls) -> str:
            """By which signal, or with which exit status."""
            code = None if cls.process is None else cls.process.poll()
            if code is None:
                return ""
            return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"

    return Manager


def _log_tail(log: Path | None) -> str:
    """The last lines of a dead kernel's log, as the end of a sentence."""
    try:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except (OSError, AttributeError):
        return ""
    # Python's list of threads follows the words of the library that gave up.
    threads = ("  File", "Thread 0x", "Current thread", "Extension modules")
    said = [line for line in lines if not line.startswith(threads)]
    return f"; its last words: {' / '.join(said[-LAST_LINES:])}" if said else ""


@dataclass(frozen=True)
class Job:
    """One notebook of a study as a worker gets it.

    Attributes
    ----------
    name : str
        Of the executed notebook, without its suffix.
    template, out, log, cwd : Path
        Absolute.
    parameters : dict
    inputs : str
        As of `execute_notebook`.
    kernel : str
    deadline : float or None
        When the notebook has to stop, as `time.time()` counts.
    before : str or None
        Name of the job that has to come before it.
    """

    name: str
    template: Path
    out: Path
    log: Path
    cwd: Path
    parameters: dict[str, Any]
    inputs: str
    kernel: str
    deadline: float | None
    before: str | None = None


def run_job(job: Job, after: Outcome | None = None) -> Outcome:
    """Execute the notebook of a job, unless what it builds on has not come about or the time is up."""
    if after is not None and after.state != "done":
        return Outcome("paused")
    parameters = dict(job.parameters)
    if job.deadline is not None:
        left = job.deadline - time.time()
        if left <= 0:
            return Outcome("paused")
        parameters["time_budget_s"] = max(round(left, 1), 0.1)  # 0 is no limit
    return execute_notebook(
        job.template, job.out, parameters, kernel=job.kernel, cwd=job.cwd, log=job.log, inputs=job.inputs
    )
