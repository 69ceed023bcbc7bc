"""Read records with the pydantic models that datamodel-code-generator made of the JSON Schema.

Arguments: the folder of the module ``generated``. Standard input: a JSON list of records.
"""

import importlib
import json
import sys

sys.path.insert(0, sys.argv[1])
model = importlib.import_module("generated").EnrichedDeployment
for record in json.load(sys.stdin):
    read = model.model_validate(record)
    assert json.loads(read.model_dump_json(by_alias=True, exclude_unset=True)) == record
    print(read.deployment.id)
