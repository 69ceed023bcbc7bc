"""Post a native event with the client that openapi-python-client made of the OpenAPI document.

Arguments: the folder of the package ``generated_client``, the receiver's URL, the bearer token.
"""

import importlib
import sys

sys.path.insert(0, sys.argv[1])
client_module = importlib.import_module("generated_client")
models = importlib.import_module("generated_client.models")
operation = importlib.import_module("generated_client.api.webhooks.receive_webhook")

client = client_module.AuthenticatedClient(base_url=sys.argv[2], token=sys.argv[3])
event = models.NativeEvent.from_dict(
    {
        "eventType": "finished",
        "projectKey": "default",
        "environmentKey": "production",
        "applicationKey": "web",
        "version": "1.4.0",
    }
)
response = operation.sync_detailed("native", client=client, body=event)
print(response.status_code.value, response.parsed.status)
refused = client_module.AuthenticatedClient(base_url=sys.argv[2], token="wrong")
response = operation.sync_detailed("native", client=refused, body=event)
print(response.status_code.value, response.parsed.title)
