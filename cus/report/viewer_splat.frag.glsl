#version 300 es
precision highp float;

in vec2 offset;
flat in vec4 seen;
out vec4 premultiplied;

const float CUTOFF = 1.0 / 255.0;
const float ALPHA_MAX = 0.999;

void main() {
  float alpha = min(ALPHA_MAX, seen.a * exp(-0.5 * dot(offset, offset)));
  if (alpha < CUTOFF) discard;
  premultiplied = vec4(seen.rgb * alpha, alpha);
}
