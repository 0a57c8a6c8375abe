"""Tables that can be shown in a terminal and in a notebook."""

import html


class Table:
    """A table that is printed as aligned text, and shown as an HTML table at the end of a notebook cell.

    Subclasses define `title` and `rows`.
    """

    title = ""

    def rows(self) -> list[dict[str, str]]:
        """Return the rows as dictionaries from column title to text, all with the same titles."""
        raise NotImplementedError

    def __str__(self) -> str:
        rows = self.rows()
        lines = [list(rows[0])] + [list(row.values()) for row in rows]
        width = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        text = ["  ".join(cell.rjust(w) for cell, w in zip(line, width, strict=True)) for line in lines]
        return "\n".join([self.title, *text])

    def _repr_html_(self) -> str:
        rows = self.rows()
        head = "".join(f"<th>{html.escape(title)}</th>" for title in rows[0])
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in row.values()) + "</tr>" for row in rows
        )
        return f"<table><caption>{html.escape(self.title)}</caption><tr>{head}</tr>{body}</table>"
