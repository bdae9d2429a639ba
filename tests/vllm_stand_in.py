"""A small HTTP server that speaks as vLLM does and generates with a tiny model in this process."""

from __future__ import annotations

import json
import math
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch
from safetensors.torch import load_file

from prag.config import GenerateConfig
from prag.generate import Request, TransformersEngine, end_ids
from prag.lora import Merged


class StandIn:
    """Serves one base model; adapters are read from their PEFT folders when they are loaded.

    `asked` is every request in order, `loaded` the adapters by name, `wrong` what must not happen.
    `refuses` gives paths another answer, `writes` every completion the same tokens. A completion
    takes `seconds`, and waits for `gate`.
    """

    def __init__(self, base, models=("base",)):
        self.base, self.models = base, models
        self.engine = TransformersEngine(base)
        self.asked, self.loaded, self.wrong, self.refuses = [], {}, [], {}
        self.writes = None
        self.running = {"adapted": 0, "plain": 0}
        self.most, self.seconds, self.shift, self.context = 0, 0.0, 0.0, 4096
        self.gate = threading.Event()
        self.gate.set()
        self.lock = threading.Lock()
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                stand_in.answer(self, None)

            def do_POST(self):
                length = int(self.headers["Content-Length"])
                stand_in.answer(self, json.loads(self.rfile.read(length)))

            def log_message(self, *parts):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def of(self, path):
        """The bodies of the requests to a path, in order."""
        return [body for where, body in self.asked if where == path]

    def answer(self, handler, body):
        path = handler.path.removeprefix("/v1/")
        with self.lock:
            self.asked.append((path, body))
        if path in self.refuses:
            return self.reply(handler, *self.refuses[path])
        if path == "models":
            cards = [{"id": m, "parent": None, "max_model_len": self.context} for m in self.models]
            cards += [{"id": name, "parent": self.models[0]} for name in self.loaded]
            return self.reply(handler, 200, {"data": cards})
        if path == "load_lora_adapter":
            self.loaded[body["lora_name"]] = read_merged(Path(body["lora_path"]))
            self.most = max(self.most, len(self.loaded))
            return self.reply(handler, 200, "Success")
        if path == "unload_lora_adapter":
            if self.loaded.pop(body["lora_name"], None) is None:
                return self.reply(handler, 404, {"error": {"message": "cannot be found"}})
            return self.reply(handler, 200, "Success")
        return self.complete(handler, body)

    def reply(self, handler, status, said):
        text = (said if isinstance(said, str) else json.dumps(said)).encode()
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text)

    def complete(self, handler, body):
        name = body["model"]
        if name not in self.loaded and name not in self.models:
            missing = {"error": {"message": f"The model `{name}` does not exist."}}
            return self.reply(handler, 404, missing)
        if "prompt_logprobs" in body:
            return self.reply(handler, 200, self.read(body["prompt"]))
        kind = "adapted" if name in self.loaded else "plain"
        with self.lock:
            self.running[kind] += 1
            if min(self.running.values()) > 0:
                self.wrong.append("requests with and without adapters side by side")
        self.gate.wait(20)
        time.sleep(self.seconds)
        ids, logs = self.made(body)
        with self.lock:
            self.running[kind] -= 1
        if name not in self.loaded and name not in self.models:
            self.wrong.append(f"{name} was taken out while it was used")
        handler.send_response(200)
        handler.end_headers()
        for at in range(0, len(ids), 2):  # two tokens an event, as a busy server sends them
            choice = {"token_ids": ids[at : at + 2]}
            if "logprobs" in body:
                choice["logprobs"] = {"token_logprobs": logs[at : at + 2]}
            handler.wfile.write(f"data: {json.dumps({'choices': [choice]})}\n\n".encode())
        return handler.wfile.write(b"data: [DONE]\n\n")

    def made(self, body):
        if self.writes is not None:
            return self.writes, [-1.0] * len(self.writes)
        request = Request(tuple(body["prompt"]), self.loaded.get(body["model"]), watch="confidence")
        with self.lock:  # one at a time: the hooks of adapters are the model's
            (one,) = self.engine.generate([request], GenerateConfig(body["max_tokens"]))
        end = [min(end_ids(self.base))] if one.ended else []
        return [*one.ids, *end], [math.log(p) for p in (*one.trace.probabilities, *one.trace.end)]

    def read(self, ids):
        with torch.no_grad(), self.lock:
            logs = self.base.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        told = [
            {str(t): {"logprob": logs[i, t].item() - self.shift}} for i, t in enumerate(ids[1:])
        ]
        return {"choices": [{"prompt_logprobs": [None, *told]}]}


def read_merged(folder):
    """The adapter of a PEFT folder, by the rules of PEFT."""
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    factors = {}
    for key, A in tensors.items():
        if not key.endswith(".lora_A.weight"):
            continue
        B = tensors[key.replace("lora_A", "lora_B")]
        assert A.shape[0] == B.shape[1] == config["r"]
        name = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        factors[name] = (A, config["lora_alpha"] / config["r"] * B)
    return Merged(factors)
