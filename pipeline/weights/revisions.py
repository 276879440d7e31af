"""The revisions of published weights that are taken where a reference names none.

A commit fixes the content of every file: it names the sha256 of large ones and the git blob id of the others, which
downloads are compared with. So nobody who may write to a repository can change what this release loads. `@main` behind
a name takes the newest revision all the same.
"""

PINNED_REVISIONS = {
    "microsoft/TRELLIS-image-large": "25e0d31ffbebe4b5a97464dd851910efc3002d96",
    "microsoft/TRELLIS-text-xlarge": "e0b00432b8e3a8ecee0df806ab1df9f7281f2be4",
    # The same repository as microsoft/TRELLIS-image-large under its former name, which published configurations use.
    "JeffreyXiang/TRELLIS-image-large": "25e0d31ffbebe4b5a97464dd851910efc3002d96",
    "facebook/dinov2-with-registers-large": "e4c89a4e05589de9b3e188688a303d0f3c04d0f3",
    "openai/clip-vit-large-patch14": "32bd64288804d66eefd0ccbe215aa642df71cc41",
    "facebook/dinov2-small": "ed25f3a31f01632728cabb09d1542f84ab7b0056",
}
