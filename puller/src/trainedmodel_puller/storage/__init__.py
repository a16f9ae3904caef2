"""From a storage URI to files in a folder.

    registry ──> object_store   s3, gs, az: obstore
             ├─> http           http, https: aiohttp
             ├─> local          file, pvc: the kernel
             └─> fsspec_store   all else that fsspec knows; s3, gs, az if a setting says so
    allowed   ─> which URIs may be fetched from at all; asked before anything else
    variables ─> credentials and places, of the environment or of a profile, in one spelling
    download ──> lists and fetches through whichever the registry picks (`staging`, `transfer`)
    sharing  ──> takes files over from another model's tree before a fetch
    digest   ──> says whether what was fetched is what was wanted
    checksum ──> says whether it is what the store has, and whether a foreign folder is

Back ends only list and read; files, resuming, limits and stall watching exist once, in `transfer`.
What turns fetched files into served ones (unpacking an archive, publishing) stands after this
package and sees a folder of plain files only.
"""
