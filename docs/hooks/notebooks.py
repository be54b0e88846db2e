"""Notebooks as pages, with the outputs that they keep.

Not by mkdocs-jupyter: the pages it makes by nbconvert fetch scripts from elsewhere (require.js, MathJax).
"""

import base64
import json
from pathlib import Path, PurePosixPath

from mkdocs.structure.files import File


def on_files(files, config):
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        page = PurePosixPath(notebook.src_uri).with_suffix(".md")
        text, pictures = as_markdown(Path(notebook.abs_src_path), page.stem)
        for name, content in pictures.items():
            files.append(File.generated(config, str(page.with_name(name)), content=content))
        files.append(File.generated(config, str(page), content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Its last line, once links of the page have been made the site's (pages.py)."""
    notebook = PurePosixPath(page.file.src_uri).with_suffix(".ipynb")
    if files.get_file_from_path(str(notebook)):
        link = f"[{notebook.name}]({notebook.name})"
        markdown += f"\n\n---\n\nThis page is a notebook: {link}. Open it with `jupyter lab`.\n"
    return markdown


def as_markdown(notebook: Path, stem: str) -> tuple[str, dict[str, bytes]]:
    """A notebook's page, and its pictures by name."""
    said, pictures = [], {}
    for cell in json.loads(notebook.read_text("utf-8"))["cells"]:
        source = "".join(cell["source"])
        said.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            if picture := output.get("data", {}).get("image/png"):
                name = f"{stem}-{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode(picture)
                said.append(f"![What the cell above shows]({name})")
            elif text := output.get("text"):
                said.append(f"```text\n{''.join(text).rstrip()}\n```")
    return "\n\n".join(said) + "\n", pictures
