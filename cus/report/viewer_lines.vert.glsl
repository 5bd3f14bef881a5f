#version 300 es
precision highp float;

in vec3 point;
in vec3 tint;
uniform mat3 rotation; // world to camera
uniform vec3 position;
uniform vec2 focal;
uniform vec2 center;
uniform vec2 size;
uniform float near;
out vec3 color;

void main() {
  vec3 seen = rotation * (point - position);
  vec2 pixel = focal * seen.xy + center * seen.z;
  gl_Position = vec4(vec2(2.0, -2.0) * pixel / size + vec2(-1.0, 1.0) * seen.z, seen.z - 2.0 * near, seen.z);
  color = tint;
}
