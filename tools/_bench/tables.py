"""What tools/bench_step.py prints."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from .operators import largest_operators
from .sides import HOST, OURS, Side


def print_numbers(console: Console, result: dict[str, Any], max_difference: float) -> None:
    """Print how far the sides are apart."""
    console.print(
        f"{result['size']}: {result['num_params'] / 1e6:.1f} M parameters, batch {result['batch']}, {result['dtype']}",
        style="bold",
    )

    for step in result["differences"]:
        console.print(
            f"  off by: loss {step['loss']:.1e}, logits {step['logits']:.1e}, gradients "
            f"{step['gradients']:.1e} ({step['worst_param']})",
            soft_wrap=True,
        )

    if not result["numbers_agree"]:
        console.print(f"  the numbers differ by more than {max_difference:g}", style="red")


def print_parts(console: Console, result: dict[str, Any]) -> None:
    """Print the table of a size."""
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        caption="faster, CPU, less: host / ours of time, processor time, memory\n"
        "limit: at least so much faster, and less\n"
        "peak: the least time that arithmetic or memory traffic take here, over ours\n"
        f"(here: {result['peaks']['flops_per_s'] / 1e9:.0f} GFLOP/s, {result['peaks']['bytes_per_s'] / 1e9:.0f} GB/s)",
    )

    table.add_column("part", no_wrap=True)

    for heading in (
        "host\n(ms)",
        "ours\n(ms)",
        "\nfaster",
        "\nCPU",
        "host\n(MiB)",
        "ours\n(MiB)",
        "\nless",
        "\npeak",
        "\nlimit",
    ):
        table.add_column(heading, justify="right", no_wrap=True)

    for name, part in result["parts"].items():
        table.add_row(
            name,
            *_to_time_cells(part["both"]),
            *_to_memory_cells(part),
            f"{part['share_of_peak'][OURS]:.0%}" if "share_of_peak" in part else "",
            _to_verdict(part),
        )

        for pass_name in ("forward", "backward"):
            if pass_name in part:
                table.add_row(f"  {pass_name}", *_to_time_cells(part[pass_name]), style="dim")

    console.print(table)


def _to_time_cells(row: dict[str, Any]) -> list[str]:
    """Return the cells of the times of a pass."""
    return [
        _to_cell(1000 * row["median_s"][HOST]),
        _to_cell(1000 * row["median_s"][OURS]),
        _to_cell(row["speedup"]),
        _to_cell(row["cpu_speedup"]) if "cpu_speedup" in row else "-",
    ]


def _to_memory_cells(part: dict[str, Any]) -> list[str]:
    """Return the cells of the memory of a part."""
    if "peak_bytes" not in part:
        return ["-", "-", "-"]

    host, ours = part["peak_bytes"][HOST], part["peak_bytes"][OURS]

    return [_to_cell(host / 2**20), _to_cell(ours / 2**20), _to_cell(host / ours) if ours else "-"]


def _to_cell(value: float) -> str:
    """Return a number in three digits or all that it has before the point."""
    return f"{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f}"


def _to_verdict(part: dict[str, Any]) -> str:
    """Return the cell of the limit of a part."""
    if "limit" not in part:
        return ""

    limits = " ".join(f"{value:g}" for value in part["limit"].values() if value is not None)

    return f"{limits} {'[green]ok' if part['within_limit'] else '[red]no'}[/]"


def print_operators(console: Console, side: Side, num_operators: int) -> None:
    """Print where a step spends its time."""
    table = Table(
        title=f"{side.spec.size}, {side.name}: the largest operators",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )

    table.add_column("operator")

    for heading in ("ms", "share", "calls"):
        table.add_column(heading, justify="right")

    for operator in largest_operators(side, num_operators):
        table.add_row(
            operator.name,
            f"{operator.time_s * 1000:.1f}",
            f"{operator.share:.1%}",
            str(operator.num_calls),
        )

    console.print(table)
