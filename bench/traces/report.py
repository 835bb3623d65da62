"""What the benchmarks print: figures, ratios and, at the end, what falls short."""


class Report:
    """Prints figures as they come and remembers the ratios that were asked for."""

    def __init__(self) -> None:
        self._ratios: list[tuple[str, float, str, bool]] = []

    def title(self, text: str) -> None:
        """Begin a table."""
        print(f"\n{text}", flush=True)

    def rate(self, name: str, value: float, unit: str, extra: str = "") -> None:
        """One contender's rate."""
        print(f"  {name:<34} {value:>12,.0f} {unit}{extra}", flush=True)

    def note(self, text: str) -> None:
        """A remark."""
        print(f"  {text}", flush=True)

    def ratio(self, name: str, value: float, *, at_least: float | None = None, at_most: float | None = None) -> None:
        """A ratio that was asked for."""
        reached = (at_least is None or value >= at_least) and (at_most is None or value <= at_most)
        wanted = f"at least {at_least:g}" if at_least is not None else f"at most {at_most:g}"
        self._ratios.append((name, value, wanted, reached))
        print(f"  {'ratio':<34} {value:>12.2f} x   ({wanted})", flush=True)

    def close(self) -> None:
        """Print all ratios again, and what falls short."""
        self.title("summary")
        for name, value, wanted, reached in self._ratios:
            print(f"  {name:<48} {value:>8.2f} x   {wanted:<12} {'reached' if reached else 'FALLS SHORT'}")
        short = [name for name, _, _, reached in self._ratios if not reached]
        print(
            f"\n{len(self._ratios) - len(short)} of {len(self._ratios)} reached"
            + "".join(f"\nfalls short: {n}" for n in short)
        )
