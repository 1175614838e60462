"""Whether a sync is of the account and the destination that its pipeline's stored state is of."""


class Subject:
    """The account that a sync reads and the destination that it writes to.

    A sync with overrides may lead elsewhere: what it finds there is not the pipeline's state.
    """

    def __init__(
        self,
        *,
        leads_elsewhere: bool = False,
        has_other_source: bool = False,
        has_other_credentials: bool = False,
        stored_account_id: str = "",
    ) -> None:
        """Begin with what is known before the sync.

        Args:
            leads_elsewhere: Whether its configuration leads to another place.
            has_other_source: Whether its source is not the pipeline's own, and may read another
                account.
            has_other_credentials: Whether that source has other secrets than the pipeline's own:
                it reads another account unless it is known to read the same.
            stored_account_id: The account of the stored state; empty when that is not known.
        """
        self._leads_elsewhere = leads_elsewhere
        self._has_other_source = has_other_source
        self._has_other_credentials = has_other_source and has_other_credentials
        self._stored_account_id = stored_account_id
        self._account_id = ""
        self._is_settled = not (has_other_source and stored_account_id)

    @property
    def account_id(self) -> str:
        """The account to store beside the state; empty leaves what is stored."""
        if self._has_other_source and self._account_id != self._stored_account_id:
            return ""
        return self._account_id

    @property
    def is_stored(self) -> bool:
        """Whether the stored state follows the sync, as far as is known by now."""
        if self._leads_elsewhere or not self._is_settled:
            return False
        if not self._has_other_source:
            return True
        if self._has_other_credentials:
            return self._account_id != "" and self._account_id == self._stored_account_id
        return not self._stored_account_id or self._account_id in ("", self._stored_account_id)

    def settle(self, account_id: str = "") -> None:
        """Take in which account the sync reads; empty when its source does not say."""
        self._account_id = account_id or self._account_id
        self._is_settled = True
