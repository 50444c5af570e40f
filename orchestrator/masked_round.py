"""Masked rounds over Flower: `shared/masking`'s server side, put to the clients through `get_properties`.

Stages 0 and 1 (advertise, share) come before the training, stages 3 and 4 (confirm, reveal) after it; stage 2 is the
training itself, whose request brings each client the boxes that its peers made for it. What the stages are for is in
`shared/masking/server.py`. A client that is lost, refuses or sends nonsense at a stage is out of the round, and of no
other; too few of them left end the round without a sum.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from flwr.common import Scalar
from flwr.server.client_proxy import ClientProxy

from orchestrator.admission import Admission, identity_name
from orchestrator.aggregation import Extras, Opening, ask
from shared.config import Config
from shared.errors import UpdateRejectedError
from shared.he.paillier import PaillierPublic
from shared.he_utils import Unmask
from shared.masking import RoundTerms, ServerRound, minimum_threshold, modulus_digest

_DONE = {
    "advertise": "made fresh keys for this round",
    "share": "gave shares of their masks to their peers",
    "confirm": "confirmed who is in the sum",
    "reveal": "revealed their shares of the sum's mask",
}
_log = logging.getLogger("orchestrator")


class MaskedAggregation:
    """Opens one `ServerRound` a round, with all keys new: nothing is kept from one round to the next.

    Args:
        config: the settings.
        public: the Paillier public key that the clients encrypt under.
        admission: who is enrolled, and the session of this start of the server; a server that is killed inside a
            round comes back with another session, in which no message of that round is of any use.
    """

    def __init__(self, config: Config, public: PaillierPublic, admission: Admission) -> None:
        self._config = config
        self._public = public
        self._admission = admission
        self._opening: Opening
        self._clients: dict[str, ClientProxy] = {}  # by the name in the enrolled list
        self._tenants: dict[str, str] = {}
        self._round: ServerRound

    def begin(self, opening: Opening) -> Extras:
        """Stages 0 and 1: the boxes for each client that is to train."""
        self._opening = opening
        self._tenants = {identity_name(tenant): tenant for tenant in opening.clients}
        self._clients = {name: opening.clients[tenant] for name, tenant in self._tenants.items()}
        terms = RoundTerms(
            session=bytes.fromhex(self._admission.session),
            round_number=opening.round_number,
            bucket=opening.bucket,
            modulus_digest=modulus_digest(int(self._public.n)),
            threshold=minimum_threshold(len(opening.clients)),
            n_min=self._config.fewest_contributors,
            ciphertexts=opening.ciphertexts,
            task=opening.task,
        )
        enrolled = self._admission.public_keys()
        invited = {name: enrolled[name] for name in self._clients if name in enrolled}
        self._round = server = ServerRound(terms, int(self._public.n), invited)
        self._ask("advertise", dict.fromkeys(server.cohort, server.announcement()), server.add_advert)
        roster = server.close_adverts()
        self._ask("share", dict.fromkeys(server.cohort, roster), server.add_shares)
        return {self._tenants[name]: {"boxes": boxes} for name, boxes in server.close_shares().items()}

    def finish(self, contributors: Sequence[str]) -> Unmask:
        """Stages 3 and 4, for the sum of these tenants' updates."""
        server = self._round
        for tenant in contributors:
            server.add_upload(identity_name(tenant))
        survivors = server.close_uploads()
        self._ask("confirm", dict.fromkeys(server.cohort, survivors), server.add_confirm)
        request = server.close_confirms()
        self._ask("reveal", dict.fromkeys(server.cohort, request), server.add_reveal)
        return server.unmask

    def _ask(self, stage: str, requests: Mapping[str, bytes], add: Callable[[bytes], str]) -> None:
        """Put one stage to all clients at once, and hand what they answer to the state machine, one by one."""
        with ThreadPoolExecutor(max_workers=max(1, len(requests))) as pool:
            answers = {name: pool.submit(self._request, name, stage, payload) for name, payload in requests.items()}
        good = 0
        for name, answer in answers.items():
            try:
                add(answer.result())
                good += 1
            except UpdateRejectedError as error:
                self._opening.note_failure(self._tenants[name], f"at {stage}: {error}")
        _log.info("%s: %d of %d clients %s", self._opening.title, good, len(requests), _DONE[stage])

    def _request(self, name: str, stage: str, payload: bytes) -> bytes:
        config: dict[str, Scalar] = {"stage": stage, "payload": payload}
        if stage == "advertise":  # the clients check that the masks will fit the key
            config |= self._opening.encryption
        client, number = self._clients[name], self._opening.round_number
        message, _ = ask(client, config, self._config.stage_timeout, "stage_timeout", number)
        return message
