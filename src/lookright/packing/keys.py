"""What a reference log-probability depends on in the data, as a key."""

import hashlib
import json

from torch import Tensor

from lookright.packing.batch import Example

KEY_BYTES = 16


def response_keys(example: Example) -> list[str]:
    """One key a response, 32 hexadecimal digits: SHA-256 of what the model is given, cut to 128 bits.

    That is the token ids of prompt and response (so text, template and tokenizer), where pictures lie in the
    prompt, how many response tokens are context, and the preprocessed pixels (so picture and processor).
    """
    prompt = hashlib.sha256()
    _add(prompt, example.prompt.input_ids)
    prompt.update(json.dumps(example.prompt.image_spans).encode())
    for picture in example.pixels:
        _add(prompt, picture)
    keys = []
    for response in example.responses:
        digest = prompt.copy()
        digest.update(f"response {response.num_unscored}".encode())
        _add(digest, response.token_ids)
        keys.append(digest.hexdigest()[: 2 * KEY_BYTES])
    return keys


def _add(digest: "hashlib._Hash", tensor: Tensor) -> None:
    """Type and shape go before the bytes, so that no two sequences of tensors read the same."""
    digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(tensor.contiguous().numpy().data)
