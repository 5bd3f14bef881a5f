#version 300 es
precision highp float;
precision highp sampler2D;

uniform sampler2D picture;
uniform vec2 size;
out vec4 color;

void main() {
  color = vec4(texture(picture, gl_FragCoord.xy / size).rgb, 1.0);
}
