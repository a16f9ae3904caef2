"""From a storage URI to files in a folder.

    registry ──> object_store   s3, gs, az: obstore
             ├─> http           http, https: aiohttp
             ├─> local          file, pvc: the kernel
             └─> fsspec_store   s3, gs, az through fsspec, if `--storage-backend` says so
    uri_allowlist ─> checks `--allow-uri`, before any connection
    profiles ──────> credentials and addresses, from the environment or a profile, in one spelling
    download ──────> lists and fetches through the registry's back end (`transfer`)
    hardlinks ─────> links files of another model's tree before a fetch
    digest ────────> checks fetched files against `spec.model.digest`
    checksum ──────> checks fetched files, or a foreign folder, against the store's checksums

Back ends only list and read; files, resuming, limits and stall detection exist once, in `transfer`.
The later steps (unpacking an archive, publishing) are outside of this package and see a folder of
plain files only.
"""
