"""The methods that are ftune's own, as tuners of peft: `import ftune.peft.tuners` lets plain peft load them."""

from ftune.peft.tuners.bias.config import BiasConfig
from ftune.peft.tuners.bias.model import BiasModel
from ftune.peft.tuners.bottleneck.config import BottleneckConfig
from ftune.peft.tuners.bottleneck.model import BottleneckModel
from ftune.peft.tuners.fusion.config import FusionConfig
from ftune.peft.tuners.fusion.model import FusionModel
from ftune.peft.tuners.registration import register

register("bitfit", BiasConfig, BiasModel, BiasModel.prefix)
register("bottleneck", BottleneckConfig, BottleneckModel, BottleneckModel.prefix)
register("adapter_fusion", FusionConfig, FusionModel, FusionModel.prefix)
