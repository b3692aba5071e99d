from my_network import Network
from timm.models import register_model


@register_model
def my_network(pretrained=False, num_classes=10, **kwargs):
    return Network(num_classes)
