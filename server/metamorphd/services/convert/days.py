"""Days as requests name them."""

from datetime import date

from metamorphd.errors import FieldViolation, RequestInvalid


def days(start_day: str, end_day: str, *, today: date) -> tuple[date, date]:
    """The first and the last day; empty, the last is today, and the first the last one's month's first.

    Raises RequestInvalid for a day that no calendar has, and where the first would come after the last.
    """
    end = _day("end_day", end_day) if end_day else today
    start = _day("start_day", start_day) if start_day else end.replace(day=1)
    if start > end:
        raise RequestInvalid(violations=[FieldViolation("start_day", f"must not come after {end}")])
    return start, end


def _day(field: str, text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise RequestInvalid(violations=[FieldViolation(field, "must be a day of the calendar")]) from None
