"""Reads the range of days of a request."""

from datetime import date

from metamorphd.errors import FieldViolation, RequestInvalid


def days(start_day: str, end_day: str, *, today: date) -> tuple[date, date]:
    """Returns the first and the last day. By default, the last is today, and the first begins the last one's month.

    Raises RequestInvalid for an invalid date, and if the first day is after the last.
    """
    end = _day("end_day", end_day) if end_day else today
    start = _day("start_day", start_day) if start_day else end.replace(day=1)
    if start > end:
        raise RequestInvalid(violations=[FieldViolation("start_day", f"must not be after {end}")])
    return start, end


def _day(field: str, text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise RequestInvalid(violations=[FieldViolation(field, "must be a valid date")]) from None
