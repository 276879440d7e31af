"""The weights of the validator's scorer beside the quality network: their published references."""

# Validators load it through open_clip, which takes the newest revision.
TEXT_ALIGNMENT = "laion/CLIP-convnext_large_d.laion2B-s26B-b102K-augreg"
# At the revision that validators use.
IMAGE_ALIGNMENT = "microsoft/LLM2CLIP-Openai-L-14-336@92512331f393a003c3d98404677f991c188162c9"
# The name of AlexNet's file, as torchvision publishes it and torch.hub keeps it.
LPIPS = "alexnet-owt-7be5be79.pth"
