"""Decision whether a sync may store its state as the state of its pipeline."""


class Subject:
    """The account that a sync reads and the destination that it writes to.

    A sync with overrides may read another account or write to another destination. Its state is
    then not stored as the pipeline's.
    """

    def __init__(
        self,
        *,
        leads_elsewhere: bool = False,
        has_other_source: bool = False,
        has_other_credentials: bool = False,
        stored_account_id: str = "",
    ) -> None:
        """Initialize with the facts that are known before the sync.

        Args:
            leads_elsewhere: Whether the configuration leads to another place than the stored one.
            has_other_source: Whether the request overrides the source, which may then read another
                account.
            has_other_credentials: Whether the overriding source has other secrets than the
                pipeline's own. It is taken to read another account unless its account is known
                to be the same.
            stored_account_id: The account of the stored state; empty if unknown.
        """
        self._leads_elsewhere = leads_elsewhere
        self._has_other_source = has_other_source
        self._has_other_credentials = has_other_source and has_other_credentials
        self._stored_account_id = stored_account_id
        self._account_id = ""
        self._is_settled = not (has_other_source and stored_account_id)

    @property
    def has_overrides(self) -> bool:
        """Whether the sync may read another account or write to another destination."""
        return self._leads_elsewhere or self._has_other_source

    @property
    def leads_elsewhere(self) -> bool:
        """Whether the configuration leads to another place than the stored one."""
        return self._leads_elsewhere

    @property
    def account_id(self) -> str:
        """The account to store with the state; empty to keep the stored account."""
        if self._has_other_source and self._account_id != self._stored_account_id:
            return ""
        return self._account_id

    @property
    def is_stored(self) -> bool:
        """Whether the sync's state is to be stored, by the facts known so far."""
        if self._leads_elsewhere or not self._is_settled:
            return False
        if not self._has_other_source:
            return True
        if self._has_other_credentials:
            return self._account_id != "" and self._account_id == self._stored_account_id
        return not self._stored_account_id or self._account_id in ("", self._stored_account_id)

    def settle(self, account_id: str = "") -> None:
        """Record the account that the sync reads; empty if its source does not report one."""
        self._account_id = account_id or self._account_id
        self._is_settled = True
