"""The documents of a YAML file. Called by `resources.py`; knows no resource itself."""

from __future__ import annotations

import yaml

from mailarray.contract.resources.reading import Document, ResourceError, kind_of


def read_documents(text: str, file: str) -> list[Document]:
    """All documents of a YAML text that are not empty. Raises ResourceError."""
    try:
        raw = list(yaml.safe_load_all(text))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{file}:{mark.line + 1}:{mark.column + 1}" if mark else file
        raise ResourceError(f"{where}: not YAML: {error.problem or 'it cannot be read'}; correct this line") from None
    except yaml.YAMLError as error:
        raise ResourceError(f"{file}: not YAML: {' '.join(str(error).split())}") from None
    documents = []
    for number, content in enumerate(raw, 1):
        if content is None:
            continue
        if not isinstance(content, dict):
            raise ResourceError(
                f"{file}, document {number}: must be a mapping with apiVersion and kind, not {kind_of(content)}"
            )
        documents.append(Document(file, number, content))
    return documents
