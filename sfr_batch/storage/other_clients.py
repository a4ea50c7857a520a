"""The settings of a store in the words of other clients, for libraries that read a store by themselves.

Credentials come from the same chain as for all other requests.
"""

from sfr_batch.config.settings import StorageSettings, secret
from sfr_batch.storage.s3 import endpoint_of


def object_store_options(uri: str, settings: StorageSettings) -> dict[str, str]:
    """Options for clients made with the Rust crate object_store, such as deltalake, to read ``uri``. They hold secrets:
    never print or keep them."""
    from sfr_batch.storage.s3_client import chain_of  # loads the clients, which local paths do not need

    options: dict[str, str | None] = {"AWS_REGION": settings.region}
    endpoint = endpoint_of(settings)
    if endpoint:
        options["AWS_ENDPOINT_URL"] = endpoint
        options["AWS_ALLOW_HTTP"] = "true" if endpoint.startswith("http://") else None
    if settings.requester_pays:
        options["AWS_REQUEST_PAYER"] = "true"
    if settings.anonymous:
        options["AWS_SKIP_SIGNATURE"] = "true"
    elif settings.access_key_id:
        options["AWS_ACCESS_KEY_ID"] = secret(settings.access_key_id)
        options["AWS_SECRET_ACCESS_KEY"] = secret(settings.secret_access_key)
    else:
        chain = chain_of(settings.profile)
        options["AWS_REGION"] = settings.region or chain.region
        options["AWS_ACCESS_KEY_ID"], options["AWS_SECRET_ACCESS_KEY"] = chain.access_key, chain.secret_key
        options["AWS_SESSION_TOKEN"] = chain.token
    options["AWS_REGION"] = options["AWS_REGION"] or "us-east-1"
    return {key: value for key, value in options.items() if value}
