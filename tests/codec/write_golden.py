"""Write the golden records of the current version, from the project's folder:

    PYTHONPATH=.:tests:tests/codec python tests/codec/write_golden.py

Run it once for a new version or scheme, and never over records that were ever released.
"""

from __future__ import annotations

import json

from test_schemes import BUDGETS, GOLDEN, record

from archiver.codec import schemes
from archiver.codec.explain import explain

for number, scheme in enumerate(BUDGETS):
    coded = record(scheme, number, (16, 11))
    stem = GOLDEN / f"{scheme.label}-v{coded.version}"
    if stem.with_suffix(".rec").exists():
        continue
    found = schemes.material(coded)
    facts = {
        "scheme": scheme.label,
        "parts": [part.text for part in explain(coded).parts],
        "labels": None if found.labels is None else found.labels.tolist(),
        "colours": None if found.colours is None else found.colours.tolist(),
        "embedding": None if found.embedding is None else [round(float(value), 6) for value in found.embedding],
        "attention": None if found.attention is None else found.attention.tolist(),
    }
    stem.with_suffix(".rec").write_bytes(coded.to_bytes())
    stem.with_suffix(".json").write_text(json.dumps(facts) + "\n")
