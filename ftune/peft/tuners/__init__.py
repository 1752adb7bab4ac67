"""The methods that are ftune's own, as tuners of peft: `import ftune.peft.tuners` lets plain peft load them."""

from ftune.peft.tuners.bottleneck.config import BottleneckConfig
from ftune.peft.tuners.bottleneck.model import BottleneckModel
from ftune.peft.tuners.registration import register

register("bottleneck", BottleneckConfig, BottleneckModel, BottleneckModel.prefix)
