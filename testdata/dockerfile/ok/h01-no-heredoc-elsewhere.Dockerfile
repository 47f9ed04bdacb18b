FROM a
ENV x=<<EOF
CMD cat <<EOF
RUN ["cat", "<<EOF"]
LABEL l=<<EOF
