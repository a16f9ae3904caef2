"""From a storage URI to files in a folder.

    registry ──> object_store   s3, gs, az: obstore
             ├─> http           http, https: aiohttp
             ├─> local          file, pvc: the kernel
             └─> fsspec_store   everything else that fsspec knows
    download ──> lists and fetches through whichever the registry picks
    digest   ──> says whether what was fetched is what was wanted

Back ends only list and read; files, resuming, limits and stall watching exist once, in `download`.
What turns fetched files into served ones (unpacking an archive, publishing) stands after this
package and sees a folder of plain files only.
"""
