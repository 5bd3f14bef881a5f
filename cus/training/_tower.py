import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn
from torch.nn import functional as F
MEAN=(0.48145466,0.4578275,0.40821073); STD=(0.26862954,0.26130258,0.27577711)
class Block(nn.Module):
    def __init__(self,w,h):
        super().__init__(); self.heads=h
        self.ln_1=nn.LayerNorm(w); self.qkv=nn.Linear(w,3*w); self.out=nn.Linear(w,w); self.ln_2=nn.LayerNorm(w); self.fc=nn.Linear(w,4*w); self.proj=nn.Linear(4*w,w)
    def forward(self,x):
        q,k,v=(a.unflatten(-1,(self.heads,-1)).transpose(1,2) for a in self.qkv(self.ln_1(x)).chunk(3,-1))
        x=x+self.out(F.scaled_dot_product_attention(q,k,v).transpose(1,2).flatten(2))
        return x+self.proj(F.gelu(self.fc(self.ln_2(x))))
class ImageTower(ModelMixin, ConfigMixin):
    @register_to_config
    def __init__(self,image_size:int=224,patch_size:int=32,width:int=96,layers:int=2,heads:int=3):
        super().__init__()
        self.conv1=nn.Conv2d(3,width,patch_size,patch_size,bias=False)
        n=(image_size//patch_size)**2
        self.class_embedding=nn.Parameter(torch.randn(width)*width**-0.5); self.positional_embedding=nn.Parameter(torch.randn(n+1,width)*width**-0.5)
        self.ln_pre=nn.LayerNorm(width); self.blocks=nn.ModuleList(Block(width,heads) for _ in range(layers))
    def forward(self,images):
        s=self.config.image_size
        if images.shape[-2:]!=(s,s): images=F.interpolate(images.float(),(s,s),mode='bicubic',align_corners=True,antialias=True)
        x=(images-images.new_tensor(MEAN)[:,None,None])/images.new_tensor(STD)[:,None,None]
        x=self.conv1(x).flatten(2).transpose(1,2)
        x=torch.cat([self.class_embedding.to(x).expand(len(x),1,-1),x],1)+self.positional_embedding
        x=self.ln_pre(x)
        for b in self.blocks: x=b(x)
        return x
