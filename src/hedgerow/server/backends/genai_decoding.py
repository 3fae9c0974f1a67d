"""The two ways in which onnxruntime-genai 0.18 generates; each is a ``hedgerow.server.backends.Decoding``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnxruntime_genai as og
from numpy.typing import NDArray

from hedgerow.server.backends import TextRequest
from hedgerow.server.errors import ServingError

# Sorting a vocabulary of 49,152 costs as much as half a token. At temperature 1 the tokens behind the 1,024 likeliest
# hold 1.3 % of the probability, and less below it; above, they hold much (40 % at 2), and all are sorted.
_CANDIDATES = 1024
_CALM = 1.0
# Divided by less than this, logits overflow float32, or the runtime takes the temperature for 0 and refuses the rest.
_LEAST = 1e-5
# Tokens that ``Generator`` reads at once. It holds Python's lock meanwhile: parts of 32 keep the freeze a twentieth of
# what a prompt of 800 tokens takes whole, at the same speed within the noise.
_PART = 32
# ``Generator`` takes a C int and makes its own choice for negative ones.
_SEEDS = 1 << 31
# An event buffer's size; one request has at most a token and an end at once.
_EVENTS = 4
# Runs without a token that are waited for before the engine counts as stuck.
_IDLE_RUNS = 8


@dataclass(frozen=True)
class Sampling:
    """How to draw a token. ``top_k`` is never 0: then both ways silently ignore ``top_p`` (onnxruntime-genai 0.18)."""

    temperature: float
    top_p: float
    top_k: int
    seed: int | None

    @classmethod
    def of(cls, request: TextRequest, vocabulary: int) -> Sampling | None:
        """None is greedy."""
        if request.temperature < _LEAST:
            return None
        top_k = min(_CANDIDATES, vocabulary) if request.temperature <= _CALM else vocabulary
        seed = None if request.seed is None else request.seed % _SEEDS
        return cls(request.temperature, max(request.top_p, _LEAST), top_k, seed)


class EngineDecoding:
    """An engine of its own for one generation: 0.1 ms to make, and the next one need not wait for this one to end."""

    def __init__(
        self, model: og.Model, stream: og.TokenizerStream, prompt: list[int], length: int, sampling: Sampling | None
    ) -> None:
        self.prompt_tokens = len(prompt)
        self.truncated = False
        self._stream = stream
        self._ended = False
        self._engine = og.Engine(model)
        self._events = self._engine.create_event_buffer(_EVENTS)
        options = og.RequestOptions()
        options.set_max_session_tokens(len(prompt) + length)
        self._request = self._engine.create_request(options=options)
        turn = og.TurnOptions(self._request)
        turn.set_max_generated_tokens(length)
        turn.set_do_sample(sampling is not None)
        if sampling is not None:
            turn.set_temperature(sampling.temperature)
            turn.set_top_p(sampling.top_p)
            turn.set_top_k(sampling.top_k)
        self._turn = self._request.begin_turn(prompt, turn)

    def read(self) -> bool:
        # The first step reads all of it, without Python's lock.
        return True

    def step(self) -> str | None:
        for _ in range(_IDLE_RUNS):
            if self._ended:
                return None
            self._engine.run(self._events)
            token = self._take()
            if token is not None:
                return str(self._stream.decode(token))
        if self._ended:
            return None
        raise ServingError("generation failed: the engine made no token")

    def close(self) -> None:
        # In this order: a request or a buffer must not outlive its engine.
        if not self._ended:
            self._request.cancel_turn(self._turn)
        self._request.close()
        del self._request, self._events, self._engine, self._stream

    def _take(self) -> int | None:
        """The token among the events of the last run; an end token is none."""
        flags, token = og.EngineEventFlags, None
        for index in range(len(self._events)):
            event = self._events[index]
            happened = int(event.flags)
            if happened & int(flags.FAILED.value):
                raise ServingError(f"generation failed: {event.error_code}")
            if happened & int(flags.TOKEN.value):
                token = int(event.token)
            if happened & int(flags.TURN_FINISHED.value):
                self._ended = True
                self.truncated = event.finish_reason != og.FinishReason.EOS
        return token


class GeneratorDecoding:
    """A generator, whose calls hold Python's lock while they compute. ``weighs``: to tell each token's ``logprob``."""

    weighs = False

    def __init__(
        self,
        model: og.Model,
        stream: og.TokenizerStream,
        prompt: list[int],
        length: int,
        sampling: Sampling | None,
        *,
        ends: frozenset[int],
        adapter: tuple[og.Adapters, str] | None = None,
    ) -> None:
        self.prompt_tokens = len(prompt)
        self.truncated = False
        self.logprob = 0.0
        self._stream = stream
        self._unread = prompt
        self._ends = ends
        options: dict[str, bool | int | float] = {
            "max_length": len(prompt) + length,
            "do_sample": sampling is not None,
        }
        if sampling is not None:
            options |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
            if sampling.seed is not None:
                options["random_seed"] = sampling.seed
        parameters = og.GeneratorParams(model)
        parameters.set_search_options(**options)
        self._generator = og.Generator(model, parameters)
        if adapter is not None:
            self._generator.set_active_adapter(*adapter)

    def read(self) -> bool:
        part, self._unread = self._unread[:_PART], self._unread[_PART:]
        self._generator.append_tokens(part)
        return not self._unread

    def step(self) -> str | None:
        if self._generator.is_done():  # an end token has returned below already: what is left is the length
            self.truncated = True
            return None
        # Before the token is made: what it will be made of. Afterwards they are the next one's.
        logits = self._generator.get_logits() if self.weighs else None
        self._generator.generate_next_token()
        token = int(self._generator.get_next_tokens()[0])
        if logits is not None:
            self.logprob = _log_probability(np.asarray(logits), token)
        if token in self._ends:
            return None
        return str(self._stream.decode(token))

    def close(self) -> None:
        del self._generator, self._stream


def _log_probability(logits: NDArray[np.floating], token: int) -> float:
    """Of ``token`` by the softmax of the last position's ``logits`` (…, vocabulary)."""
    row = logits.reshape(-1, logits.shape[-1])[-1].astype(np.float64)
    row -= row.max()
    return float(row[token] - np.log(np.exp(row).sum()))
