"""The methods that are ftune's own, as tuners of peft: `import ftune.peft.tuners` lets plain peft load them."""
